// The connection to the proxy: the event stream, what it missed, and whether the proxy is there.

import {call, json, listen, Refusal} from './api.js';

/** The proxy says something each second; after this it is called stopped, in milliseconds: within 3 s with the watch below. */
const SILENCE = 2400;
const PAUSE = 700;
/** Without a request log, the status alone is asked for this often. */
const POLL = 2000;
/** A hidden tab gives its connection back after this: browsers open only six to a server. */
const HIDDEN = 10000;

const sleep = ms => new Promise(done => setTimeout(done, ms));

/**
 * Keeps the page up to date. `on` has `connection` (`live`, `stopped` or `waiting`), `locked`, `event(name, data)`,
 * `filterRefused(detail)`, `logAbsent`.
 */
export class Live {
  filter = '';
  history;
  #on;
  #abort = null;
  #heard = 0;
  #hiddenAt = null;
  #running = false;

  constructor(history, on) {
    this.history = history;
    this.#on = on;
    setInterval(() => this.#watch(), 500);
    document.addEventListener('visibilitychange', () => {
      this.#hiddenAt = document.hidden ? Date.now() : null;
      if (!document.hidden) this.start();
    });
  }

  async start() {
    if (this.#running) return;
    this.#running = true;
    while (this.#running && !this.#isAsleep()) {
      try {
        await this.#follow();
        this.#on.connection('waiting');
      } catch (error) {
        if (error instanceof Refusal && error.status === 401) {
          this.#running = false;
          this.#on.locked();
          return;
        }
        const {reason} = this.#abort.signal;
        if (reason === 'again') continue;
        this.#on.connection(reason === 'asleep' ? 'waiting' : 'stopped');
      }
      await sleep(PAUSE);
    }
    this.#running = false;
  }

  /** Follows another filter, from the beginning. */
  setFilter(filter) {
    this.filter = filter;
    this.history.clear();
    this.#abort?.abort('again');
    this.start();
  }

  #isAsleep() { return this.#hiddenAt !== null && Date.now() - this.#hiddenAt > HIDDEN; }

  #watch() {
    if (this.#isAsleep()) this.#abort?.abort('asleep');
    else if (this.#abort && Date.now() - this.#heard > SILENCE) {
      this.#on.connection('stopped');
      this.#abort.abort('silence');
    }
  }

  async #follow() {
    const abort = this.#abort = new AbortController();
    this.#heard = Date.now();
    const query = new URLSearchParams();
    if (this.filter) query.set('filter', this.filter);
    if (this.history.run && this.history.last) query.set('last', `${this.history.run}.${this.history.last}`);
    let response;
    try {
      response = await call(`/api/events?${query}`, {signal: abort.signal});
    } catch (error) {
      if (!(error instanceof Refusal) || error.status === 401) throw error;
      if (error.status === 400 && this.filter) {
        this.filter = '';
        this.#on.filterRefused(error.message);
        return;
      }
      if (error.status !== 404) throw error;
      this.#on.logAbsent();
      await this.#poll(abort.signal);
      return;
    }
    const heard = () => { this.#heard = Date.now(); };
    await listen(response, heard, (name, data) => {
      if (name === 'hello') this.#hello(data, abort.signal);
      this.#on.event(name, data);
    });
  }

  /** What a stream does not tell: entries from before it began. */
  async #hello({run}, signal) {
    this.#on.connection('live');
    if (run !== this.history.run) {
      this.history.clear(run);
      this.#on.event('run');
    }
    try {
      const query = new URLSearchParams({limit: 200, filter: this.filter});
      const [page, stats, rate] = await Promise.all([
        json(`/api/requests?${query}`, {signal}), json('/api/stats', {signal}), json('/api/rate', {signal}),
      ]);
      if (page.run === this.history.run) this.#on.event('page', page);
      this.#on.event('stats', stats);
      this.#on.event('rate', rate);
    } catch {
      // The stream goes on; what it tells from now on is shown.
    }
  }

  async #poll(signal) {
    for (;;) {
      const status = await json('/api/status', {signal: AbortSignal.any([signal, AbortSignal.timeout(SILENCE)])});
      this.#heard = Date.now();
      this.#on.connection('live');
      this.#on.event('status', status);
      await sleep(POLL);
    }
  }
}
