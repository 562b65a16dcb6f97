// Capturing bodies, and what leaves the page as a file.

import {call, post} from './api.js';
import {ask} from './dialog.js';
import {attempt, byId, h, say, shell, wear} from './dom.js';
import {bytes, count, counted, span} from './format.js';

/** How long a capture from the page lasts, in seconds. */
const CAPTURE_S = 900;
const REDACTED = '[redacted]';

let capture = null;
const line = {text: h('span'), element: null};

const isActive = () => Boolean(capture?.active) && capture.until > Date.now();

const drawCapture = () => {
  const button = byId('capture');
  const isOn = isActive();
  button.setAttribute('aria-pressed', String(isOn));
  say(button, isOn ? 'Stop capturing' : 'Capture bodies');
  line.element ??= h('p', {class: 'loud'}, line.text, h('button', {type: 'button', onclick: stop}, 'Stop capturing'));
  if (!isOn) return line.element.remove();
  const what = capture.account ? `of ${capture.account} ` : '';
  say(line.text, `Request and response bodies ${what}are being kept in memory, for ${span((capture.until - Date.now()) / 1000)} more (${count(capture.bodies ?? 0)} bod${capture.bodies === 1 ? 'y' : 'ies'}, ${bytes(capture.bytes ?? 0)}).`);
  if (!line.element.isConnected) byId('notices').prepend(line.element);
};

/** Takes the state of a capture, whoever began or ended it; null if there is none. */
export const showCapture = latest => {
  capture = latest;
  drawCapture();
};

const stop = () => attempt('Still capturing', async () => {
  await call('/api/capture', {method: 'DELETE'});
  showCapture(null);
});

const toggle = async () => {
  if (isActive()) return stop();
  const agreed = await ask({
    title: 'Capture bodies for 15 minutes?', agree: 'Capture',
    body: ['The next requests and responses are kept in memory, up to 64 KiB of each body, and shown here without secrets. They hold data of the company.', 'It ends by itself, and with the proxy.'],
  });
  if (agreed) await attempt('Not captured', async () => showCapture(await post('/api/capture', {for_s: CAPTURE_S, account: null})));
  return undefined;
};

/** What a HAR file leaves out, found in the file itself. */
const redactions = har => {
  const found = new Map();
  for (const {request, response} of har.log.entries) {
    for (const part of [request, response]) {
      for (const {name, value} of [...part?.headers ?? [], ...part?.queryString ?? []]) {
        if (String(value).includes(REDACTED)) found.set(name, (found.get(name) ?? 0) + 1);
      }
    }
  }
  return [...found].sort((a, b) => b[1] - a[1]);
};

const save = (text, name) => {
  const address = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  h('a', {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};

const exportHar = filter => attempt('Not exported', async () => {
  const text = await (await call(`/api/har?${new URLSearchParams({filter})}`)).text();
  const har = JSON.parse(text);
  const hidden = redactions(har);
  const first = har.log.entries[0];
  const agreed = await ask({
    title: 'Export as HAR?', agree: 'Save the file',
    body: [
      `${counted(har.log.entries.length, 'exchange')}${filter ? ` that match ${filter}` : ''}, ${bytes(text.length)}. Tokens, keys, cookies and values of queries are left out; bodies are in it where they were captured. Names and amounts stay, so look before you send it to others.`,
      hidden.length ? h('p', {}, 'Left out: ', hidden.slice(0, 8).map(([name, times]) => h('span', {class: 'tag'}, `${name} ×${count(times)} `))) : '',
      first ? h('details', {}, h('summary', {}, 'The first one, as it will be in the file'), h('pre', {tabindex: 0}, JSON.stringify(first, null, 2).slice(0, 6000))) : '',
      h('p', {class: 'soft'}, 'The same from a terminal:'), shell(`pleo-proxy har -o requests.har`),
    ].filter(Boolean),
  });
  if (agreed) save(text, `pleo-proxy-${new Date().toISOString().slice(0, 16).replace(':', '')}.har`);
});

export const startEvidence = filter => {
  byId('capture').addEventListener('click', toggle);
  byId('export').addEventListener('click', () => exportHar(filter()));
  setInterval(drawCapture, 1000);
};

/** The notes of the proxy about itself. */
export const showNotes = status => {
  // A capture has a line of its own.
  const notes = (status.notes ?? []).filter(note => !note.endsWith('pleo-proxy capture --stop'));
  if (status.stopped_tasks?.length) notes.unshift(`stopped: ${status.stopped_tasks.join(', ')}; restart the proxy`);
  const place = byId('notices');
  const old = [...place.querySelectorAll('.note')];
  if (old.map(note => note.textContent).join('\n') === notes.map(note => `Note: ${note}`).join('\n')) return;
  old.forEach(note => note.remove());
  place.append(...notes.map(note => h('p', {class: 'note'}, `Note: ${note}`)));
};

/** Where the page talks to and since when, and which environment, loudly. */
export const showPlace = status => {
  const badge = byId('environment');
  const name = status.environment;
  badge.hidden = false;
  say(badge, name === 'production' ? 'PRODUCTION' : name);
  wear(badge, `environment ${['sandbox', 'staging', 'production'].includes(name) ? name : ''}`);
  document.body.classList.toggle('production', name === 'production');
  const here = status.replica
    ? `Replicas share the accounts in ${status.store}; this page shows the requests of ${status.replica} alone.`
    : `Tokens are kept in ${status.store}. Process ${status.pid}.`;
  say(byId('foot'), `Requests go to ${status.upstream}. ${here}`);
};
