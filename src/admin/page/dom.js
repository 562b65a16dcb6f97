// Elements. Text only ever goes in as text nodes, so that no data can become markup.

const SVG = 'http://www.w3.org/2000/svg';

const fill = (element, properties, children) => {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
};

/** An element with attributes, listeners (`onclick`) and children. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

/** The same for SVG. */
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

export const byId = id => document.getElementById(id);

/** Sets a text only if it differs: a live region announces every change, and layout costs. */
export const say = (element, text) => {
  const string = text === null || text === undefined ? '' : String(text);
  if (element.textContent !== string) element.textContent = string;
};

/** Sets a class only if it differs. */
export const wear = (element, names) => {
  if (element.getAttribute('class') !== names) element.setAttribute('class', names);
};

const due = new Map();
let asked = false;

const run = () => {
  asked = false;
  const now = [...due.values()];
  due.clear();
  for (const draw of now) draw();
};

/** Draws with the next frame, once for any number of changes until then. */
export const soon = (name, draw) => {
  due.set(name, draw);
  if (asked) return;
  asked = true;
  requestAnimationFrame(run);
};

let clearing;

/** Says something for a moment. */
export const toast = text => {
  const place = byId('toast');
  say(place, text);
  clearTimeout(clearing);
  clearing = setTimeout(() => say(place, ''), 4000);
};

/** Does something that may fail, and then says so. */
export const attempt = async (failure, action) => {
  try {
    await action();
  } catch (error) {
    toast(`${failure}: ${error.message}`);
  }
};

/** A button that copies a text, or what a function promises. */
export const copyButton = (text, label = 'Copy', name = label) => h('button', {
  type: 'button', class: label === 'Copy' ? 'quiet' : null, 'aria-label': name,
  onclick: () => attempt('Not copied', async () => {
    await navigator.clipboard.writeText(typeof text === 'function' ? await text() : text);
    toast('Copied');
  }),
}, label);

/** A command line with its copy button. */
export const shell = command => h('span', {class: 'shell'}, h('code', {}, command), copyButton(command, 'Copy', `Copy ${command}`));
