// Numbers and times as people read them.

const clock = new Intl.DateTimeFormat(undefined, {hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23'});
const full = new Intl.DateTimeFormat(undefined, {dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23'});
const grouped = new Intl.NumberFormat('en');

/** 14:03:59, local time. */
export const time = at => clock.format(at);

/** Date and time, local. */
export const moment = at => full.format(at);

export const count = n => grouped.format(n);

/** "1 request", "2 requests", "3 refreshes". */
export const counted = (n, word, many = 's') => `${count(n)} ${word}${n === 1 ? '' : many}`;

/** Milliseconds: 0.4 ms, 31 ms, 1.20 s. */
export const duration = ms => {
  if (ms === null || ms === undefined) return '';
  if (ms >= 60000) return span(ms / 1000);
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
};

/** Seconds as one or two units: 7 min 41 s, 3 h 5 min, 12 days. */
export const span = seconds => {
  const n = Math.max(0, Math.round(seconds));
  if (n < 60) return `${n} s`;
  if (n < 600) return `${Math.floor(n / 60)} min${n % 60 ? ` ${n % 60} s` : ''}`;
  if (n < 3600) return `${Math.floor(n / 60)} min`;
  if (n < 86400) return `${Math.floor(n / 3600)} h${Math.floor(n % 3600 / 60) ? ` ${Math.floor(n % 3600 / 60)} min` : ''}`;
  return counted(Math.floor(n / 86400), 'day');
};

/** "12 s ago", "in 3 min". */
export const relative = (at, now = Date.now()) => {
  const seconds = (at - now) / 1000;
  if (Math.abs(seconds) < 1.5) return 'now';
  return seconds < 0 ? `${span(-seconds)} ago` : `in ${span(seconds)}`;
};

/** Bytes: 512 B, 4.7 KiB. */
export const bytes = n => {
  if (n === null || n === undefined) return '';
  if (n < 1024) return `${n} B`;
  return n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`;
};

/** A time of the API, text or milliseconds, as milliseconds; null if it is none. */
export const parsed = at => {
  const ms = typeof at === 'number' ? at : Date.parse(at ?? '');
  return Number.isFinite(ms) ? ms : null;
};

/** How an answer is shown: `ok`, `warn` (the caller's fault) or `bad`. */
export const tone = entry => {
  if (entry.running) return 'running';
  if (entry.status === null || entry.status >= 500 || !entry.complete) return 'bad';
  return entry.status >= 400 ? 'warn' : 'ok';
};

/** Whether a refresh brought a token, by its outcome. */
export const worked = outcome => ['refreshed', 'adopted', 'fresh'].includes(outcome);

/** "company:c0a1e5ce-…" of "urn:pleo:company:c0a1e5ce-…". */
export const subject = urn => urn?.replace(/^urn:pleo:/, '') ?? null;
