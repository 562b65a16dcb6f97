// The exchanges that the page knows, oldest first, and never more than `MOST`.

export const MOST = 5000;
/** How many the oldest are dropped at once, because moving the list costs. */
const DROP = 500;

export class History {
  run = null;
  /** Those that ended, by rising `seq`. */
  ended = [];
  /** Those that have not, newest first. */
  running = [];
  /** Rises with every change. */
  version = 0;
  byId = new Map();
  /** How many were overwritten before they could be sent. */
  lost = 0;
  /** True if the proxy may have older ones. */
  hasOlder = false;

  get last() { return this.ended.at(-1)?.seq ?? 0; }
  get first() { return this.ended[0]?.seq ?? 0; }
  get length() { return this.running.length + this.ended.length; }

  /** Forgets everything: another run, or another filter. */
  clear(run = this.run) {
    Object.assign(this, {run, ended: [], running: [], byId: new Map(), lost: 0, hasOlder: false});
    this.version++;
  }

  /** Takes entries in any order; returns how many are new at the young end. */
  add(entries) {
    const fresh = entries.filter(entry => !this.byId.has(entry.id)).sort((a, b) => a.seq - b.seq);
    if (!fresh.length) return 0;
    this.version++;
    for (const entry of fresh) this.byId.set(entry.id, entry);
    const young = fresh[0].seq > this.last ? fresh.length : 0;
    if (young) this.ended.push(...fresh);
    else this.ended = [...fresh, ...this.ended].sort((a, b) => a.seq - b.seq);
    if (this.running.length) this.running = this.running.filter(entry => !this.byId.has(entry.id));
    if (this.ended.length > MOST) {
      const drop = this.ended.splice(0, Math.max(DROP, this.ended.length - MOST));
      for (const entry of drop) this.byId.delete(entry.id);
      this.hasOlder = true;
    }
    return young;
  }

  setRunning(entries) {
    if (!entries.length && !this.running.length) return;
    this.running = entries.filter(entry => !this.byId.has(entry.id));
    this.version++;
  }

  /** The nth from the newest. */
  at(index) {
    const running = this.running.length;
    return index < running ? this.running[index] : this.ended[this.ended.length - 1 - (index - running)];
  }

  /** Where an entry is from the newest; -1 if it is not kept. */
  indexOf(id) {
    const running = this.running.findIndex(entry => entry.id === id);
    const known = this.byId.get(id);
    if (running >= 0 || !known) return running;
    let [low, high] = [0, this.ended.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ended[middle].seq < known.seq) low = middle + 1;
      else high = middle;
    }
    return this.running.length + this.ended.length - 1 - low;
  }

  /** As it is now, for a list that is paused. */
  copy() {
    const copy = Object.assign(new History(), this);
    copy.ended = [...this.ended];
    copy.running = [...this.running];
    copy.byId = new Map(this.byId);
    return copy;
  }
}
