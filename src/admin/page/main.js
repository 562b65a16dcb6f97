// Begins the page: the session of a link, the connection, and what goes where.

import {showAccounts, startAccounts} from './accounts.js';
import {post} from './api.js';
import {clearCharts, showRate, showStats, startCharts} from './charts.js';
import {byId, say, wear} from './dom.js';
import {showCapture, showNotes, showPlace, startEvidence} from './evidence.js';
import {relative} from './format.js';
import {History} from './history.js';
import {Live} from './live.js';
import {Requests} from './requests.js';
import {showVerdict} from './verdict.js';

const WORDS = {live: 'live', waiting: 'connecting', stopped: 'stopped'};

let status = null;
let rate = null;
let connection = 'waiting';
let stoppedAt = null;

const judge = () => showVerdict(status, connection, rate);

/** Of a proxy that has stopped nothing can be done, and nothing is known but what was. */
const setStopped = isStopped => {
  byId('page').classList.toggle('stopped', isStopped);
  for (const part of byId('page').children) part.inert = isStopped && part.id !== 'verdict';
  if (!isStopped) return;
  [rate, status] = [null, status && {...status, stopped: true}];
  showCapture(null);
  if (status) showAccounts(status);
};

const setConnection = state => {
  if (state === 'waiting' && connection === 'stopped') return;
  if (state === connection) return;
  connection = state;
  stoppedAt = state === 'stopped' ? Date.now() : null;
  const place = byId('connection');
  place.hidden = false;
  wear(place, `connection ${state}`);
  say(place, WORDS[state]);
  setStopped(state === 'stopped');
  judge();
};

const open = () => {
  byId('locked').hidden = true;
  byId('page').hidden = false;
};

const setStatus = latest => {
  status = latest;
  open();
  showPlace(status);
  showNotes(status);
  showAccounts(status);
  requests.setStatus(status);
  judge();
};

const lock = () => {
  byId('page').hidden = true;
  byId('locked').hidden = false;
  byId('connection').hidden = true;
  document.title = 'pleo-proxy';
};

const setRate = latest => {
  rate = latest;
  showRate(rate);
  judge();
};

/** Another run of the proxy counts from nothing. */
const beginRun = () => {
  clearCharts();
  requests.draw();
};

const handlers = {
  status: setStatus, stats: showStats, rate: setRate, capture: showCapture, run: beginRun,
  page: page => requests.addPage(page), entries: entries => requests.add(entries), lost: lost => requests.addLost(lost),
};

const history = new History();
const live = new Live(history, {
  connection: setConnection, locked: lock,
  event: (name, data) => handlers[name]?.(data),
  filterRefused: text => requests.filter.problem(text),
  logAbsent: () => requests.setAbsent(),
});
const requests = new Requests(history, live);

/** Trades the key of a link for a session; it works once and leaves the address at once. */
const begin = async () => {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (!key) return;
  window.history.replaceState(null, '', location.pathname + location.search);
  try {
    await post('/api/session', {key});
  } catch (error) {
    say(byId('problem'), error.status === 429 ? error.message : 'This link was used already or has expired. Run the command for a fresh one.');
  }
};

startAccounts();
startCharts();
startEvidence(() => live.filter);
setInterval(() => {
  if (status && !document.hidden) judge();
  if (stoppedAt !== null) say(byId('connection'), `stopped ${relative(stoppedAt)}`);
}, 1000);
await begin();
live.filter = requests.filter.value;
live.start();
