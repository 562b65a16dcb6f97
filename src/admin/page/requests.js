// The list of exchanges: what comes in, filter, pause, and the panel beside it.

import {json} from './api.js';
import {Detail, emptyTable} from './detail.js';
import {byId, say, soon} from './dom.js';
import {Filter} from './filter.js';
import {count, counted} from './format.js';
import {Grid} from './grid.js';

const OLDER = 500;
/** Running exchanges are asked for this often: the stream tells only those that ended. */
const RUNNING_EVERY = 2000;

export class Requests {
  #history;
  #live;
  #paused = null;
  #grid;
  #detail;
  #loading = false;
  #api = 'http://127.0.0.1:8088';
  #absent = false;
  /** Is shown when it comes: what was sent again. */
  #awaited = null;
  filter;

  constructor(history, live) {
    [this.#history, this.#live] = [history, live];
    this.#detail = new Detail({closed: () => this.#closed(), show: id => { this.#awaited = id; }});
    this.#grid = new Grid(history, {
      open: (entry, takesFocus) => this.#detail.open(entry, takesFocus), close: () => this.#detail.close(), isOpen: () => this.#detail.id !== null,
      older: () => this.#older(), pause: () => this.#pause(),
    });
    this.filter = new Filter(words => this.#refilter(words));
    byId('pause').addEventListener('click', () => this.#pause());
    document.addEventListener('keydown', event => {
      const isTyping = event.target.closest?.('input, textarea, dialog');
      if (event.key !== '/' || isTyping || event.ctrlKey || event.metaKey || event.altKey || byId('page').hidden) return;
      event.preventDefault();
      this.filter.focus();
    });
    setInterval(() => this.#askRunning(), RUNNING_EVERY);
  }

  /** Takes new entries of the stream. */
  add(entries) {
    this.#history.add(entries);
    const wanted = [this.#awaited, this.#detail.id].filter(Boolean);
    const ended = entries.find(({id}) => wanted.includes(id));
    if (ended?.id === this.#awaited) {
      this.#awaited = null;
      this.#grid.select(ended.id);
    }
    if (ended) this.#detail.open(ended);
    this.draw();
  }

  /** Takes an answer of `/api/requests`: the newest, or older ones. */
  addPage(page) {
    this.#history.add(page.entries);
    if (page.entries.length) this.#history.hasOlder = true;
    this.#history.setRunning(page.running ?? []);
    this.draw();
  }

  addLost({from, to}) {
    this.#history.lost += to - from + 1;
    this.draw();
  }

  setStatus(status) {
    this.#api = status.api;
    const names = status.accounts.length > 1;
    if (this.#grid.names !== names) {
      this.#grid.names = names;
      this.draw();
    }
  }

  /** The proxy keeps no log. */
  setAbsent() {
    this.#absent = true;
    this.draw();
  }

  draw() {
    this.#grid.draw();
    soon('requests', () => this.#drawAround());
  }

  #drawAround() {
    const {length, lost, ended} = this.#paused ?? this.#history;
    const waiting = this.#paused ? this.#history.last - this.#paused.last : 0;
    say(byId('requests-count'), [length ? `${count(length)} shown` : '', waiting > 0 ? `paused, up to ${count(waiting)} new` : '', lost ? `${counted(lost, 'request')} came too fast to be kept` : ''].filter(Boolean).join(' · '));
    byId('grid').dataset.seq = ended.at(-1)?.seq ?? 0;
    const empty = byId('empty');
    empty.hidden = length > 0;
    const key = this.#absent ? 'absent' : `${this.#live.filter} ${this.#api}`;
    if (length || empty.dataset.key === key) return;
    empty.dataset.key = key;
    empty.replaceChildren(...(this.#absent ? ['This proxy keeps no log of requests: inspect.requests is 0.'] : emptyTable(this.#live.filter, this.#api)));
  }

  #pause() {
    this.#paused = this.#paused ? null : this.#history.copy();
    this.#grid.setHistory(this.#paused ?? this.#history);
    byId('pause').setAttribute('aria-pressed', String(Boolean(this.#paused)));
    say(byId('pause'), this.#paused ? 'Resume' : 'Pause');
    this.draw();
  }

  #closed() {
    this.#grid.focus();
    this.draw();
  }


  /** The proxy says first whether it understands the words; the list stays until it does. */
  async #refilter(words) {
    try {
      await json(`/api/requests?${new URLSearchParams({filter: words, limit: 1})}`);
      if (words !== this.filter.value) return;
      this.filter.problem('');
      if (this.#paused) this.#pause();
      byId('grid').scrollTop = 0;
      this.#live.setFilter(words);
      this.draw();
    } catch (error) {
      if (error.status === 400 && words === this.filter.value) this.filter.problem(error.message);
    }
  }

  async #older() {
    if (this.#loading || this.#paused || !this.#history.first) return;
    const {run, first} = this.#history;
    this.#loading = true;
    try {
      const query = new URLSearchParams({filter: this.#live.filter, before: first, limit: OLDER});
      const page = await json(`/api/requests?${query}`);
      if (page.run !== this.#history.run || run !== page.run) return;
      const before = this.#history.length;
      this.#history.add(page.entries);
      this.#history.hasOlder = page.entries.length > 0 && this.#history.length > before;
      this.draw();
    } catch {
      this.#history.hasOlder = false;
    } finally {
      this.#loading = false;
    }
  }

  async #askRunning() {
    if (document.hidden || this.#absent || this.#paused || !this.#history.run || byId('page').hidden) return;
    try {
      const page = await json(`/api/requests?${new URLSearchParams({filter: this.#live.filter, limit: 1})}`);
      if (page.run !== this.#history.run) return;
      const {version} = this.#history;
      this.#history.setRunning(page.running ?? []);
      if (this.#history.version !== version) this.draw();
    } catch {
      // The connection itself says when the proxy is gone.
    }
  }
}
