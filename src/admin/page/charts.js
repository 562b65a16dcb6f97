// Four small charts of the last 15 minutes, each with its numbers as a table.

import {byId, h, s, say, soon} from './dom.js';
import {count, counted, duration, relative, time, worked} from './format.js';

const [HEIGHT, LEFT, TOP, BOTTOM] = [112, 44, 6, 94];
/** Of all charts, in pixels. */
let width = 280;
const SLICES = 180;
const LEAST = 24;
/** Requests a minute that Pleo allows; it recommends at most 500. */
const DEFAULT_RATE = {limit: 600, recommended: 500, accounts: []};

let sliceMs = 5000;
let slices = [];
let refreshes = [];
let rate = DEFAULT_RATE;
const figures = {};

const figure = (key, title, legend, head) => {
  const part = {
    now: h('span'), svg: s('svg', {role: 'img'}),
    body: h('tbody'), note: h('p', {class: 'quietly'}),
  };
  part.details = h('details', {ontoggle: () => soon('charts', draw)}, h('summary', {}, 'As a table'),
    h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `${title}, as a table`},
      h('table', {}, h('thead', {}, h('tr', {}, head.map(text => h('th', {scope: 'col'}, text)))), part.body)));
  part.figure = h('figure', {class: 'chart'}, h('h3', {}, title, part.now), part.svg, part.note,
    h('div', {class: 'legend'}, legend.map(([kind, text]) => h('span', {}, h('i', {class: kind}), text))), part.details);
  part.title = title;
  figures[key] = part;
  return part.figure;
};

/** A height that is round, and what to write at it. */
const ceiling = most => {
  const step = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return [1, 2, 5, 10].map(n => n * step).find(n => n >= most);
};

/** The last 15 minutes, or less while there is less to show. */
const span = () => {
  const end = Math.floor(Date.now() / sliceMs) * sliceMs;
  const first = Math.min(slices.find(slice => slice.requests)?.at ?? end, refreshes[0]?.at ?? end);
  const begin = Math.max(end - (SLICES - 1) * sliceMs, Math.min(first, end - LEAST * sliceMs));
  return {end, begin, bar: Math.max(1.1, (width - LEFT) / ((end - begin) / sliceMs) * 0.8)};
};

const across = (at, {begin, end, bar}) => LEFT + (at - begin) / (end - begin) * (width - LEFT - 3 - bar);

const label = (x, y, text, anchor = 'end') => s('text', {x, y, 'text-anchor': anchor}, text);

const frame = (begin, top, base, low) => [
  s('path', {class: 'axis', d: `M${LEFT} ${base}H${width - 2}M${LEFT} ${TOP}H${width - 2}`}),
  label(LEFT - 5, TOP + 6, top), label(LEFT - 5, base + 3, '0'), low ?? '',
  label(LEFT, HEIGHT - 2, time(begin).slice(0, 5), 'start'), label(width - 2, HEIGHT - 2, 'now'),
];

/** Shows a chart, or what to read in its place. */
const show = (part, {now, text, drawn, rows, none}) => {
  say(part.now, now);
  part.svg.setAttribute('aria-label', `${part.title}: ${text}`);
  part.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  part.svg.toggleAttribute('hidden', Boolean(none));
  part.note.hidden = !none;
  part.details.hidden = Boolean(none);
  say(part.note, none);
  part.svg.replaceChildren(...(none ? [] : drawn));
  if (part.details.open && !none) part.body.replaceChildren(...rows().map(row => h('tr', {}, row.map(cell => h('td', {}, cell)))));
};

const drawRequests = (part, busy) => {
  const range = span();
  const errors = slice => slice.errors_proxy + slice.errors_pleo;
  const [requests, failed] = [busy.reduce((sum, slice) => sum + slice.requests, 0), busy.reduce((sum, slice) => sum + errors(slice), 0)];
  const most = ceiling(Math.max(5, ...busy.map(slice => slice.requests - errors(slice))));
  const worst = Math.max(0, ...busy.map(errors));
  // One scale above and below the line; a single error among many is seen nevertheless.
  const scale = (BOTTOM - TOP) / (most + Math.max(worst, most / 12));
  const base = TOP + most * scale;
  let [fine, pleo, ours] = ['', '', ''];
  const bar = (x, y, height) => (height > 0 ? `M${x.toFixed(1)} ${y.toFixed(1)}v${height.toFixed(1)}h${range.bar.toFixed(1)}v${(-height).toFixed(1)}z` : '');
  for (const slice of busy) {
    const x = across(slice.at, range);
    const up = (slice.requests - errors(slice)) * scale;
    fine += bar(x, base - up, up);
    const [a, b] = [slice.errors_pleo, slice.errors_proxy].map(n => n && Math.max(2, n * scale));
    pleo += bar(x, base + 1, a);
    ours += bar(x, base + 1 + a, b);
  }
  show(part, {
    now: counted(requests, 'request'), text: `${counted(requests, 'request')}, ${counted(failed, 'error')}.`,
    none: requests ? null : 'Nothing was sent in the last 15 minutes. A bar is five seconds; errors are below the line.',
    drawn: [...frame(range.begin, base - TOP > 14 ? count(most) : '', base, BOTTOM - base > 14 ? label(LEFT - 5, BOTTOM + 1, count(worst)) : ''), s('path', {class: 'fill-accent', d: fine}), s('path', {class: 'fill-warn', d: pleo}), s('path', {class: 'fill-bad', d: ours})],
    rows: () => busy.filter(slice => slice.requests).reverse().map(slice => [time(slice.at), count(slice.requests), count(slice.errors_pleo), count(slice.errors_proxy)]),
  });
  say(byId('activity-sum'), failed ? `${counted(failed, 'error')} in ${counted(requests, 'request')}` : '');
};

const drawLatency = (part, busy) => {
  const range = span();
  const timed = busy.filter(slice => slice.requests && slice.p99_ms !== null);
  const most = ceiling(Math.max(10, ...timed.map(slice => slice.p99_ms)));
  const y = ms => BOTTOM - Math.min(1, ms / most) * (BOTTOM - TOP);
  const line = key => {
    let [d, before] = ['', 0];
    for (const slice of timed) {
      d += `${slice.at - before > sliceMs * 2 ? 'M' : 'L'}${across(slice.at, range).toFixed(1)} ${y(slice[key]).toFixed(1)}`;
      if (slice.at - before > sliceMs * 2) d += 'h.1';
      before = slice.at;
    }
    return d;
  };
  const waited = timed.filter(slice => slice.wait_p99_ms > 5);
  const last = timed.at(-1);
  const marks = waited.map(slice => s('circle', {class: 'fill-warn', cx: across(slice.at, range), cy: y(Math.min(most, slice.wait_p99_ms)), r: 2.6}));
  show(part, {
    now: last ? `p50 ${duration(last.p50_ms)}, p99 ${duration(last.p99_ms)}` : '',
    text: last ? `lately half within ${duration(last.p50_ms)}, 99 of 100 within ${duration(last.p99_ms)}; waits for a token in ${counted(waited.length, 'slice')} of five seconds.` : '',
    none: timed.length ? null : 'No request to time yet. Half are faster than p50, 99 of 100 faster than p99.',
    drawn: [...frame(range.begin, duration(most).replace(/\.0+ /, ' '), BOTTOM), s('path', {class: 'line dash', d: line('p99_ms')}), s('path', {class: 'line', d: line('p50_ms')}), ...marks],
    rows: () => timed.toReversed().map(slice => [time(slice.at), duration(slice.p50_ms), duration(slice.p99_ms), slice.wait_p99_ms > 5 ? duration(slice.wait_p99_ms) : '']),
  });
};

/** When the last refresh was, which the clock changes. */
const sayLast = () => {
  const last = refreshes.at(-1);
  say(figures.refreshes.now, last && last.at >= span().begin ? `last ${relative(last.at)}` : '');
};

const drawRefreshes = part => {
  const range = span();
  const recent = refreshes.filter(refresh => refresh.at >= range.begin);
  const most = ceiling(Math.max(50, ...recent.map(refresh => refresh.duration_ms)));
  const drawn = recent.map(refresh => {
    const [x, y] = [across(refresh.at, range), BOTTOM - refresh.duration_ms / most * (BOTTOM - TOP - 14)];
    const isGood = worked(refresh.outcome);
    const mark = isGood ? s('circle', {class: 'fill-accent', cx: x, cy: y, r: 4}) : s('path', {class: 'stem bad', d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8`});
    const affected = refresh.held + refresh.sent_again;
    return s('g', {}, s('path', {class: `stem ${isGood ? '' : 'bad'}`, d: `M${x} ${BOTTOM}V${y}`}), mark, affected ? label(x, y - 7, String(affected), 'middle') : '');
  });
  sayLast();
  const [held, again] = [recent.reduce((sum, one) => sum + one.held, 0), recent.reduce((sum, one) => sum + one.sent_again, 0)];
  show(part, {
    now: figures.refreshes.now.textContent, text: `${counted(recent.length, 'token refresh', 'es')}, ${counted(held, 'request')} held meanwhile, ${again} sent again.`,
    none: recent.length ? null : 'No refresh in the last 15 minutes. Each shows here with how long it took and how many requests it held.',
    drawn: [...frame(range.begin, duration(most), BOTTOM), ...drawn],
    rows: () => recent.toReversed().map(one => [time(one.at), one.account, one.reason, one.outcome, duration(one.duration_ms), count(one.held), count(one.sent_again)]),
  });
};

/** The account that is nearest to the limit, as a bar of its programs. */
const drawRate = part => {
  const {limit, recommended} = rate;
  const busiest = [...rate.accounts].sort((a, b) => b.last_minute - a.last_minute).slice(0, 3);
  const scale = n => 14 + Math.min(1, n / (limit * 1.1)) * (width - 8);
  const drawn = busiest.flatMap((account, row) => {
    const [y, high] = [16 + row * 26, 14];
    let x = scale(0);
    const bars = account.programs.slice(0, 4).map((program, index) => {
      const wide = scale(program.last_minute) - scale(0);
      x += wide;
      return s('rect', {class: index ? `shade-${index}` : 'fill-accent', x: x - wide, y, width: Math.max(0, wide - .7), height: high});
    });
    return [s('rect', {x: scale(0), y, width: scale(limit) - scale(0), height: high, fill: 'none', class: 'axis'}), ...bars,
      s('text', {x: scale(0), y: y - 3}, `${account.account}: ${count(account.last_minute)}`)];
  });
  const bottom = 16 + busiest.length * 26 - 8;
  const lines = [['advice', recommended], ['limit', limit]].flatMap(([kind, n]) => [s('path', {class: kind, d: `M${scale(n)} 8V${bottom}`}), label(scale(n), bottom + 12, count(n), 'middle')]);
  const first = busiest[0];
  const told = busiest.find(account => account.retry_after_s !== null && account.retry_after_s !== undefined);
  const inside = told?.retried_inside?.map(({program, requests}) => `${program} ${count(requests)}`).join(', ');
  const over = first && first.last_minute >= recommended ? ` That is over the ${recommended} that Pleo recommends.` : '';
  say(part.warning, told ? `Pleo asked ${told.account} to wait ${told.retry_after_s} s${inside ? `; sent meanwhile: ${inside}` : ''}.` : over.trim());
  show(part, {
    now: first ? `${count(first.last_minute)} of ${count(limit)} a minute` : '', text: first ? `${first.account} sent ${counted(first.last_minute, 'request')} in the last minute, of ${limit} allowed.${over}` : '',
    none: first ? null : `Pleo allows ${limit} requests a minute and recommends at most ${recommended}. What programs use of it shows here.`,
    drawn: [...drawn, ...lines],
    rows: () => rate.accounts.flatMap(account => account.programs.map(program => [account.account, program.program || 'unknown', count(program.last_minute)])),
  });
};

const draw = () => {
  width = Math.max(200, figures.requests.figure.clientWidth - 30);
  const {begin} = span();
  const recent = slices.filter(slice => slice.at >= begin);
  drawRequests(figures.requests, recent);
  drawLatency(figures.latency, recent);
  drawRefreshes(figures.refreshes);
  drawRate(figures.rate);
};

/** Takes all slices, or newer ones. */
export const showStats = stats => {
  sliceMs = stats.slice_ms ?? sliceMs;
  const fresh = stats.slices ?? [];
  const from = fresh[0]?.at ?? Infinity;
  slices = [...slices.filter(slice => slice.at < from), ...fresh].slice(-SLICES - 1);
  const key = refresh => `${refresh.at} ${refresh.account}`;
  const known = new Map([...refreshes, ...(stats.refreshes ?? [])].map(refresh => [key(refresh), refresh]));
  refreshes = [...known.values()].sort((a, b) => a.at - b.at).slice(-200);
  soon('charts', draw);
};

/** Forgets everything: another run of the proxy. */
export const clearCharts = () => {
  [slices, refreshes, rate] = [[], [], DEFAULT_RATE];
  soon('charts', draw);
};

export const showRate = latest => {
  rate = {...DEFAULT_RATE, ...latest};
  soon('charts', draw);
};

export const startCharts = () => {
  byId('charts').append(
    figure('requests', 'Requests', [['', 'successes'], ['warn', 'errors of Pleo'], ['bad', 'errors of the proxy']], ['Time', 'Requests', 'Errors of Pleo', 'of the proxy']),
    figure('latency', 'Latency', [['solid', 'p50'], ['dash', 'p99'], ['warn', 'waited for a token']], ['Time', 'p50', 'p99', 'Wait for a token']),
    figure('refreshes', 'Refreshes', [['', 'refreshed'], ['bad', 'failed'], ['dash', 'number: requests held or sent again']], ['Time', 'Account', 'Reason', 'Outcome', 'Took', 'Held', 'Sent again']),
    figure('rate', 'Rate', [['', 'by program'], ['dash', 'recommended and allowed']], ['Account', 'Program', 'Last minute']),
  );
  figures.rate.warning = h('p', {class: 'problem'});
  figures.rate.svg.after(figures.rate.warning);
  setInterval(() => {
    if (!document.hidden && !byId('activity').inert) sayLast();
  }, 1000);
  new ResizeObserver(() => soon('charts', draw)).observe(byId('charts'));
};
