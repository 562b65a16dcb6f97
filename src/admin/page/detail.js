// Everything about one exchange: facts, time, reason, what was captured, and what can be done with it.

import {call, json, post} from './api.js';
import {ask} from './dialog.js';
import {attempt, byId, copyButton, h, say, shell, toast} from './dom.js';
import {bytes, duration, moment, relative} from './format.js';

/** Longer bodies are cut when they are shown, in characters. */
const LONGEST = 100000;
const INDENT = '  ';

const PHASES = [
  ['t-token', 'Waited for a token', 'token_ms'],
  ['t-connect', 'Found a connection', 'connected_ms'],
  ['t-pleo', 'Pleo answered', 'head_ms'],
  ['t-body', 'Body passed on', 'total_ms'],
];

const timing = entry => {
  if (entry.total_ms === null) return null;
  let before = 0;
  const steps = PHASES.filter(([, , key]) => entry[key] !== null).map(([kind, name, key]) => {
    const step = {kind, name, ms: Math.max(0, entry[key] - before)};
    before = Math.max(before, entry[key]);
    return step;
  });
  const bar = h('div', {class: 'timing', 'aria-hidden': 'true'});
  for (const {kind, ms} of steps) {
    const part = h('i', {class: kind});
    part.style.width = `${Math.max(0, ms / Math.max(entry.total_ms, .001) * 100 - .6)}%`;
    bar.append(part);
  }
  return h('section', {}, h('h4', {}, `Time: ${duration(entry.total_ms)}`), bar,
    h('div', {class: 'timing-list'}, steps.map(({kind, name, ms}) => [h('i', {class: kind, 'aria-hidden': 'true'}), h('span', {}, name), h('span', {}, duration(ms))])));
};

/** JSON with line breaks and colours, every token as it came: numbers lose no digit. */
const pretty = text => {
  JSON.parse(text);
  const parts = [];
  let depth = 0;
  let plain = '';
  const line = () => { plain += `\n${INDENT.repeat(depth)}`; };
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    if (token === '{' || token === '[') {
      plain += token;
      depth++;
      if (next !== '}' && next !== ']') line();
    } else if (token === '}' || token === ']') {
      depth--;
      if (!'{['.includes(tokens[index - 1])) line();
      plain += token;
    } else if (token === ',') {
      plain += ',';
      line();
    } else if (token === ':') plain += ': ';
    else {
      parts.push(plain, h('span', {class: next === ':' ? 'j-key' : token[0] === '"' ? 'j-text' : 'j-other'}, token));
      plain = '';
    }
  });
  return [...parts, plain];
};

const shownBody = text => {
  const cut = text.length > LONGEST;
  try {
    return h('pre', {tabindex: 0}, cut ? text.slice(0, LONGEST) : pretty(text));
  } catch {
    return h('pre', {tabindex: 0}, cut ? `${text.slice(0, LONGEST)}…` : text);
  }
};

const half = (title, part) => h('section', {}, h('h4', {}, title),
  h('table', {class: 'headers'}, h('tbody', {}, part.headers.map(([name, value]) => h('tr', {}, h('td', {}, name), h('td', {}, value))))),
  part.body ? [h('h4', {}, 'Body'), shownBody(part.body)] : null,
  part.body_note ? h('p', {class: 'soft'}, `Body ${part.body_note}.`) : null);

const captured = (entry, capture) => {
  if (capture) return [half('Request', capture.request), half('Response', capture.response)];
  return h('section', {class: 'soft'}, h('h4', {}, 'Headers and bodies'),
    entry.captured ? 'They were captured, but are no longer kept.' : 'Not kept. To see those of the next requests, press Capture bodies, or run: pleo-proxy capture --for 15m');
};

const reason = (entry, why) => {
  const text = why?.reason ?? entry.hint;
  if (!text) return null;
  return h('section', {class: 'box'}, h('h4', {}, why && !why.certain ? 'Probable reason' : 'Reason'), h('p', {}, text),
    why?.next ? h('p', {}, h('b', {}, 'Next: '), why.next) : null,
    why?.source ? h('p', {class: 'soft'}, `Source: ${why.source}`) : null);
};

const facts = entry => {
  const who = entry.program ? `${entry.program}${entry.pid ? ` (pid ${entry.pid})` : ''}${entry.label ? `, ${entry.label}` : ''}` : 'unknown';
  const status = entry.running ? 'running' : entry.status === null ? 'none: the caller left' : `${entry.status}${entry.code ? `, ${entry.code}` : ''}${entry.error_type ? `, ${entry.error_type}` : ''}`;
  const rows = [
    ['Status', status], ['Answered by', entry.by === 'proxy' ? 'the proxy itself' : entry.by === 'pleo' ? 'Pleo' : null],
    ['Arrived', [`${moment(entry.at)}, `, ago(entry.at)]], ['Account', entry.account ?? 'none'],
    ['Program', who], ['User agent', entry.user_agent],
    ['Operation', entry.operation ? `${entry.operation}${entry.kind ? `, a ${entry.kind}` : ''}${entry.deprecated ? ', deprecated' : ''}` : 'not a known one of Pleo'],
    ['Query', entry.query?.length ? `${entry.query.join(', ')} (values not shown)` : null],
    ['Size', `${bytes(entry.bytes_in)} in, ${bytes(entry.bytes_out)} out`],
    ['Token', [entry.generation ? `generation ${entry.generation}` : null, entry.held ? 'waited for a refresh' : null, entry.sent_again ? 'sent again after a 401' : null].filter(Boolean).join(', ')],
    ['Complete', entry.running || entry.complete ? null : 'no: the answer was cut off'],
    ['traceparent', entry.traceparent], ['Id', entry.id],
  ];
  return h('dl', {class: 'facts'}, rows.filter(([, value]) => value).map(([term, value]) => [h('dt', {}, term), h('dd', {}, value)]));
};

/** How long ago a time was; the panel keeps it so. */
const ago = at => h('span', {'data-at': at}, relative(at));

/** The panel. `closed()` is called when it closes, `show(id)` shows another exchange. */
export class Detail {
  #place = byId('detail');
  #on;
  #id = null;

  constructor(on) {
    this.#on = on;
    setInterval(() => {
      for (const place of this.#place.querySelectorAll('[data-at]')) say(place, relative(Number(place.dataset.at)));
    }, 1000);
    this.#place.addEventListener('keydown', event => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      this.close();
    });
  }

  get id() { return this.#id; }

  close() {
    if (this.#id === null) return;
    this.#id = null;
    this.#place.hidden = true;
    this.#place.parentElement.classList.remove('open');
    this.#on.closed();
  }

  /** Shows an entry at once, then what the proxy knows beside it. */
  async open(entry, takesFocus = false) {
    this.#id = entry.id;
    this.#place.hidden = false;
    this.#place.parentElement.classList.add('open');
    this.#show(entry, null, undefined);
    this.#place.scrollTop = 0;
    if (takesFocus) this.#place.querySelector('button').focus();
    if (entry.running) return;
    try {
      const {entry: latest, why, capture} = await json(`/api/requests/${encodeURIComponent(entry.id)}`);
      if (this.#id === entry.id) this.#show(latest, why, capture);
    } catch (error) {
      if (this.#id === entry.id) this.#place.append(h('p', {class: 'problem'}, error.message));
    }
  }

  #show(entry, why, capture) {
    const hadFocus = this.#place.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    const title = `${entry.method ?? '?'} ${entry.path}`;
    this.#place.replaceChildren(
      h('header', {}, h('h3', {}, title), h('button', {type: 'button', class: 'quiet', 'data-action': 'close', 'aria-label': 'Close the details', onclick: () => this.close()}, 'Close')),
      h('div', {class: 'do'}, this.#actions(entry)),
      reason(entry, why) ?? '',
      h('section', {}, facts(entry)), timing(entry) ?? '',
      ...[capture === undefined ? '' : captured(entry, capture)].flat(),
    );
    if (hadFocus) this.#place.querySelector(`[data-action="${hadFocus}"]`)?.focus();
  }

  #actions(entry) {
    if (entry.running) return h('span', {class: 'soft'}, 'It is running.');
    const curl = async () => (await call(`/api/curl/${encodeURIComponent(entry.id)}`)).text();
    const copy = copyButton(curl, 'Copy as curl');
    copy.dataset.action = 'curl';
    return [copy, h('button', {type: 'button', 'data-action': 'replay', onclick: () => this.#replay(entry)}, 'Send again')];
  }

  async #replay(entry) {
    const isRead = entry.kind === 'read' || (entry.kind === null && ['GET', 'HEAD'].includes(entry.method));
    const confirm = isRead ? false : await ask({
      title: 'Send this request again?', agree: 'Send again', sure: true,
      body: [h('p', {}, h('code', {}, `${entry.method} ${entry.path}`)), `It may change data at Pleo a second time${entry.account ? `, as ${entry.account}` : ''}.`],
    });
    if (!isRead && !confirm) return;
    await attempt('Not sent', async () => {
      const {id, status} = await post(`/api/requests/${encodeURIComponent(entry.id)}/replay`, {confirm});
      toast(`Sent again: ${status}`);
      this.#on.show(id);
    });
  }
}

/** What stands where there are no rows. */
export const emptyTable = (filter, api) => (filter
  ? [h('h3', {}, 'No request matches'), h('p', {}, 'Requests that match the filter appear here as they end.')]
  : [h('h3', {}, 'No request yet'), h('p', {}, 'Send one, and it appears here when it ends:'), shell(`curl ${api}/v1/companies`)]);
