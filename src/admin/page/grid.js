// The table of exchanges: as many rows as there are, but only those in view are elements.

import {byId, h, say, soon, wear} from './dom.js';
import {bytes, duration, moment, time, tone} from './format.js';

export const ROW = 32;
/** Rows drawn beyond the view, so that a fast scroll shows no gap. */
const BEYOND = 8;
/** A bar of this length is full, in milliseconds. */
const FULL_BAR = 500;

const COLUMNS = ['Time', 'Method', 'Path', 'From', 'Status', 'Took', 'Size', 'Notes'];
const KINDS = ['time', 'method', 'path', 'who', 'status', 'took', 'size right', 'flags'];

const flagsOf = entry => [
  entry.held && 'waited', entry.sent_again && 'sent again', !entry.complete && !entry.running && 'cut off',
  entry.deprecated && 'deprecated', entry.captured && 'captured', entry.hint,
].filter(Boolean).join(' · ');

const buildRow = id => {
  const cells = KINDS.map(kind => h('span', {role: 'gridcell', class: kind}));
  const [, , path, , status, took] = cells;
  const query = h('i');
  path.append(h('span'), query);
  status.append(h('b'), h('i', {class: 'tag'}, 'proxy'), h('span'));
  const [wait, rest] = [h('i'), h('i')];
  took.append(h('span', {class: 'bars', 'aria-hidden': 'true'}, wait, rest), h('span'));
  const row = h('div', {role: 'row', class: 'row', id: `row-${id}`}, cells);
  return {row, cells, query, wait, rest, entry: null};
};

const fillRow = (part, entry, index, names) => {
  if (part.entry !== entry || part.names !== names) {
    [part.entry, part.names] = [entry, names];
    const [at, method, path, who, status, took, size, flags] = part.cells;
    say(at, time(entry.at));
    at.title = moment(entry.at);
    say(method, entry.method ?? '?');
    wear(method, `method${entry.kind === 'write' ? ' write' : ''}`);
    say(path.firstChild, entry.path);
    say(part.query, entry.query?.length ? `?${entry.query.join('&')}` : '');
    path.title = `${entry.path}${part.query.textContent}`;
    say(who, [names ? entry.account : null, entry.label ?? entry.program].filter(Boolean).join(' · '));
    wear(status, `status ${tone(entry)}`);
    say(status.firstChild, entry.running ? 'running' : entry.status ?? 'left');
    status.children[1].hidden = entry.by !== 'proxy';
    say(status.lastChild, entry.by === 'proxy' && entry.code ? entry.code : entry.error_type ?? '');
    status.title = status.lastChild.textContent;
    say(took.lastChild, duration(entry.total_ms));
    const width = ms => `${Math.min(100, Math.max(0, ms) / FULL_BAR * 100)}%`;
    const waited = entry.held ? entry.token_ms ?? entry.total_ms ?? 0 : 0;
    part.wait.style.width = width(waited);
    part.rest.style.width = width((entry.total_ms ?? 0) - waited);
    say(size, bytes(entry.bytes_out));
    say(flags, flagsOf(entry));
    flags.title = flags.textContent;
  }
  if (part.index !== index) {
    part.index = index;
    part.row.setAttribute('aria-rowindex', index + 2);
    part.row.style.transform = `translateY(${(index + 1) * ROW}px)`;
  }
};

/** `open(entry)` shows one, `close()` closes it, `older()` asks for older ones, `pause()` pauses. */
export class Grid {
  #place = byId('grid');
  #space = h('div', {role: 'presentation'});
  #rows = [];
  #history;
  #on;
  #selected = null;
  #length = 0;
  /** Accounts are named if there are several. */
  names = false;

  constructor(history, on) {
    this.#history = history;
    this.#on = on;
    const head = COLUMNS.map((text, index) => h('span', {role: 'columnheader', class: KINDS[index]}, text));
    this.#place.append(h('div', {role: 'row', class: 'row head', 'aria-rowindex': 1}, head), this.#space);
    this.#place.addEventListener('scroll', () => this.draw(), {passive: true});
    this.#place.addEventListener('keydown', event => this.#key(event));
    this.#place.addEventListener('click', event => {
      const part = this.#rows.find(({row}) => row.contains(event.target));
      if (part?.entry) this.select(part.entry.id, true);
    });
    this.#place.addEventListener('pointerleave', () => {
      if (this.#isAway && this.#selected === null) this.#place.scrollTop = 0;
      this.#isAway = false;
    });
    new ResizeObserver(() => this.draw()).observe(this.#place);
  }

  get selected() { return this.#selected; }

  /** Shows another list. */
  setHistory(history) {
    this.#history = history;
    this.#length = 0;
    this.draw();
  }

  draw() { soon('grid', () => this.#draw()); }

  #draw() {
    const [place, history] = [this.#place, this.#history];
    const length = history.length;
    // What is looked at or pointed to stays where it is while new ones come in above.
    const isHeld = place.scrollTop > ROW / 2 || place.matches(':hover');
    if (this.#length && length > this.#length && isHeld && this.#top) {
      const index = history.indexOf(this.#top.id);
      if (index >= 0) {
        this.#isAway ||= place.scrollTop <= ROW / 2;
        place.scrollTop += (index - this.#top.index) * ROW;
      }
    }
    this.#length = length;
    this.#space.style.height = `${length * ROW}px`;
    place.setAttribute('aria-rowcount', length + 1);
    const first = Math.max(0, Math.floor(place.scrollTop / ROW));
    const from = Math.max(0, first - BEYOND);
    const to = Math.min(length, first + Math.ceil(place.clientHeight / ROW) + BEYOND);
    this.#top = first < length ? {id: history.at(first).id, index: first} : null;
    while (this.#rows.length < to - from) {
      const part = buildRow(this.#rows.length);
      this.#rows.push(part);
      place.append(part.row);
    }
    let active = null;
    for (let n = 0; n < this.#rows.length; n++) {
      // A row keeps its element while others come and go, so that little is drawn anew.
      const index = from + (n - from % this.#rows.length + this.#rows.length) % this.#rows.length;
      const part = this.#rows[n];
      part.row.hidden = index >= to;
      if (part.row.hidden) continue;
      fillRow(part, history.at(index), index, this.names);
      const isSelected = part.entry.id === this.#selected;
      if (isSelected) active = part.row.id;
      if (part.isSelected !== isSelected) {
        part.isSelected = isSelected;
        part.row.setAttribute('aria-selected', String(isSelected));
      }
    }
    if (active) place.setAttribute('aria-activedescendant', active);
    else place.removeAttribute('aria-activedescendant');
    if (history.hasOlder && to >= length - BEYOND) this.#on.older();
  }

  #top = null;
  /** It left the newest only because the pointer is over it. */
  #isAway = false;

  /** Selects a row; with `open` its details are shown. */
  select(id, open = false) {
    this.#selected = id;
    const index = id === null ? -1 : this.#history.indexOf(id);
    if (index >= 0) {
      const [top, view] = [index * ROW, this.#place];
      if (top < view.scrollTop) view.scrollTop = top;
      else if (top + 2 * ROW > view.scrollTop + view.clientHeight) view.scrollTop = top + 2 * ROW - view.clientHeight;
      if (open) this.#on.open(this.#history.at(index));
    }
    this.draw();
  }

  focus() { this.#place.focus({preventScroll: true}); }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#place.clientHeight / ROW) - 1);
    const last = this.#history.length - 1;
    const index = this.#selected === null ? -1 : this.#history.indexOf(this.#selected);
    const steps = {ArrowDown: index + 1, ArrowUp: index - 1, PageDown: index + page, PageUp: index - page, Home: 0, End: last};
    if (event.key in steps && last >= 0) {
      const entry = this.#history.at(Math.max(0, Math.min(last, steps[event.key])));
      this.select(entry.id, this.#on.isOpen());
    } else if (event.key === 'Enter' && index >= 0) this.#on.open(this.#history.at(index), true);
    else if (event.key === 'Escape') this.#on.close();
    else if (event.key === 'p') this.#on.pause();
    else return;
    event.preventDefault();
  }
}
