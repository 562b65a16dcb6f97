// The filter box. The proxy has the language; the page keeps the words, in its address.

import {byId, h, say} from './dom.js';

const QUICK = [['Errors', 'is:error'], ['Slow', 'is:slow'], ['Waited', 'is:held'], ['Writes', 'kind:write'], ['By the proxy', 'by:proxy']];
const PAUSE = 250;

const HELP = [
  ['/v1/vendors', 'part of the path'],
  ['status:403  status:4xx  status:>=400', 'status'],
  ['method:POST  path:/v1/  op:vendors', 'method, beginning of the path, part of the operation'],
  ['account:acme  program:python3  id:3fa9c1-17', 'who, and which'],
  ['by:proxy  code:login_required', 'answers of the proxy itself'],
  ['kind:read  kind:write', 'what it does at Pleo'],
  ['is:error  is:slow  is:held  is:resent', 'also is:running, is:captured, is:deprecated, is:hinted'],
  ['since:10m', 'the last ten minutes'],
  ['-status:200', 'all but these; all words must match'],
];
const KEYS = [['/', 'to the filter'], ['↑ ↓ Page Home End', 'through the requests'], ['Enter', 'details'], ['Esc', 'close'], ['p', 'pause, in the list']];

export class Filter {
  #input = byId('filter');
  #buttons = [];
  #timer;
  #change;

  /** `change(filter)` is called when the words have changed. */
  constructor(change) {
    this.#change = change;
    this.#input.value = new URLSearchParams(location.search).get('filter') ?? '';
    this.#input.addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#apply(), PAUSE);
    });
    this.#input.addEventListener('keydown', event => {
      if (event.key !== 'Enter') return;
      clearTimeout(this.#timer);
      this.#apply();
    });
    for (const [name, term] of QUICK) {
      const button = h('button', {type: 'button', title: term, 'data-term': term, onclick: () => this.#toggle(term)}, name);
      this.#buttons.push(button);
    }
    byId('quick').append(...this.#buttons);
    const list = rows => h('dl', {}, rows.map(([term, text]) => [h('dt', {}, h('code', {}, term)), h('dd', {class: 'soft'}, text)]));
    byId('help').append(list(HELP), list(KEYS));
    this.#mark();
  }

  get value() { return this.#input.value.trim(); }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  /** Says what is wrong with the words; an empty text if nothing is. */
  problem(text) {
    say(byId('filter-problem'), text);
    this.#input.setAttribute('aria-invalid', String(Boolean(text)));
  }

  #toggle(term) {
    const words = this.value.split(/\s+/).filter(Boolean);
    this.#input.value = (words.includes(term) ? words.filter(word => word !== term) : [...words, term]).join(' ');
    this.#apply();
  }

  #mark() {
    const words = this.value.split(/\s+/);
    for (const button of this.#buttons) button.setAttribute('aria-pressed', String(words.includes(button.dataset.term)));
  }

  #apply() {
    this.#mark();
    history.replaceState(null, '', this.value ? `?${new URLSearchParams({filter: this.value})}` : location.pathname);
    this.#change(this.value);
  }
}
