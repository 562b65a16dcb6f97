// The cards of the accounts: what each may do, how long its token lives, and what can be done.

import {post} from './api.js';
import {ask} from './dialog.js';
import {attempt, byId, h, s, say, soon, toast, wear} from './dom.js';
import {counted, count, duration, moment, parsed, relative, span, subject, time, worked} from './format.js';
import {connectAddress, connectLink, hasToken, isKnown, isLoggedOut, nameOf, refresh, servesUnnamed, wellness} from './verdict.js';

/** From this many on there is a search. */
const SEARCH_FROM = 20;
/** How many cards are shown at first, and more at each wish. */
const STEP = 24;
/** Pleo's refresh tokens die of age, in days. */
const TOKEN_DAYS = 60;
const AROUND = 2 * Math.PI * 18;
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;

const MARKS = {ok: '●', warn: '▲', bad: '✕'};
const WHY_REFRESHED = {
  margin: 'before it expired', expired: 'a request found it expired', 401: 'Pleo refused the token',
  'idle-refresh': 'unused for long', retry: 'tried again', asked: 'on request',
};

let accounts = [];
let status = null;
let received = Date.now();
let most = STEP;
const cards = new Map();

const ring = () => {
  const left = s('circle', {class: 'left', cx: 22, cy: 22, r: 18, transform: 'rotate(-90 22 22)', 'stroke-dasharray': AROUND});
  const text = s('text', {x: 22, y: 26});
  const svg = s('svg', {class: 'ring', viewBox: '0 0 44 44', width: 44, height: 44, role: 'img'}, s('circle', {cx: 22, cy: 22, r: 18}), left, text);
  return {svg, left, text};
};

const disconnect = async account => {
  const agreed = await ask({
    title: `Disconnect ${account}?`, agree: 'Disconnect', sure: true,
    body: ['Its tokens are deleted on this machine. Requests as this account are refused until somebody logs in again.'],
  });
  if (!agreed) return;
  await attempt(`${account} is still connected`, async () => {
    await post(`/api/accounts/${encodeURIComponent(account)}/logout`);
    toast(`${account} is disconnected`);
  });
};

/** Builds a card once; `update` fills it. */
const build = account => {
  const name = account.account;
  const part = {
    ring: ring(), title: h('span'), mark: h('span', {class: 'tag', title: 'Serves requests that name no account', hidden: true}, 'default'), sub: h('div', {class: 'soft'}), state: h('span', {class: 'state'}), why: h('p', {class: 'why'}),
    token: h('dd'), refreshed: h('dd'), next: h('dd'), login: h('dd'), last: h('dt'), term: h('dt'), bar: h('i'), age: h('span', {class: 'age', 'aria-hidden': 'true'}), scopes: h('dd', {class: 'scopes'}),
    connect: h('span'),
    refresh: h('button', {type: 'button', 'aria-label': `Refresh now: ${name}`, onclick: event => refresh(name, event.currentTarget)}, 'Refresh now'),
    disconnect: h('button', {type: 'button', class: 'danger quiet', 'aria-label': `Disconnect: ${name}`, onclick: () => disconnect(name)}, 'Disconnect'),
    loginText: h('span'),
  };
  part.age.append(part.bar);
  part.login.append(part.loginText, part.age);
  const facts = [['Token', part.token], ['Refreshed', part.refreshed], ['Next', part.next], ['Login', part.login], ['Scopes', part.scopes]];
  part.rows = facts.map(([term, value]) => [term === 'Refreshed' ? part.last : term === 'Token' ? part.term : h('dt', {}, term), value]);
  part.card = h('article', {'aria-label': `Account ${name}`},
    h('header', {}, part.ring.svg, h('div', {}, h('h3', {}, part.title, ' ', part.mark), part.sub), part.state), part.why,
    h('dl', {class: 'facts'}, part.rows), h('footer', {}, part.connect, part.refresh, part.disconnect));
  return part;
};

const showRow = (part, index, isShown) => {
  for (const element of part.rows[index]) element.hidden = !isShown;
};

const showScopes = (part, scopes) => {
  const key = scopes.join(' ');
  if (part.key === key) return;
  part.key = key;
  part.scopes.replaceChildren(...scopes.map(scope => h('code', {}, scope)));
};

const showLast = (part, account) => {
  const last = account.last_refresh;
  const at = parsed(last?.at ?? account.refreshed_at);
  showRow(part, 1, at !== null);
  if (at === null) return;
  const how = last ? `${WHY_REFRESHED[last.reason] ?? last.reason}, ${worked(last.outcome) ? 'took' : 'failed after'} ${duration(last.ms)}` : 'at the login';
  say(part.last, last && !worked(last.outcome) ? 'Last refresh attempt' : 'Last refresh');
  say(part.refreshed, `${time(at)}, ${how}`);
  part.refreshed.title = moment(at);
};

const update = (part, account) => {
  const well = isKnown(account) ? wellness(account) : 'new';
  wear(part.card, `card ${well}`);
  const name = nameOf(account);
  say(part.title, name);
  part.mark.hidden = accounts.length < 2 || !servesUnnamed(status, account);
  const bound = subject(account.subject);
  part.sub.title = account.subject ?? '';
  say(part.sub, [name === account.account ? null : account.account, name === account.company ? null : account.company, bound].filter(Boolean).join(' · '));
  wear(part.state, `state ${well}`);
  say(part.state, well === 'new' ? '○ not connected' : `${MARKS[well]} ${isLoggedOut(account) ? 'logged out' : account.state.replaceAll('_', ' ')}`);
  const why = account.why ?? account.warning;
  part.why.hidden = !why || well === 'new' || isLoggedOut(account);
  say(part.why, account.resends ? `${account.why} (sent again ${counted(account.resends, 'time')})` : why);
  showScopes(part, account.scope ?? []);
  showRow(part, 4, (account.scope ?? []).length > 0);
  showLast(part, account);
  const age = account.refresh_token_age;
  showRow(part, 3, age !== null && age !== undefined);
  const days = (age ?? 0) / 86400;
  wear(part.age, days > 50 ? 'age warn' : 'age');
  part.bar.style.width = `${Math.max(1, Math.min(100, days / TOKEN_DAYS * 100))}%`;
  const wording = well === 'new' ? 'Connect' : 'Log in again';
  if (part.connect.textContent !== wording) {
    const link = connectLink(account.account, wording, well === 'ok' || well === 'warn' ? 'button' : 'button primary');
    link.setAttribute('aria-label', `${wording}: ${account.account}`);
    part.connect.replaceChildren(link);
  }
  part.refresh.hidden = part.disconnect.hidden = well === 'new' || (age === null && !account.api_key);
  part.connect.hidden = Boolean(account.api_key);
  const asks = account.api_key ? 'Check the key' : 'Refresh now';
  say(part.refresh, asks);
  part.refresh.setAttribute('aria-label', `${asks}: ${account.account}`);
  say(part.term, account.api_key ? 'API key' : 'Token');
  tick(part, account);
};

/** An API key has no token's ring: it is valid until Pleo says otherwise. */
const showKey = (part, key) => {
  say(part.ring.text, 'key');
  part.ring.svg.setAttribute('aria-label', 'API key');
  const until = key.expires_on ? `expires on ${key.expires_on}` : 'nobody said when it expires';
  const added = parsed(key.added_at);
  say(part.token, `${key.masked}, ${until}${added === null ? '' : `; added ${moment(added)}`}`);
};

/** What the clock changes. */
const tick = (part, account, now = status?.stopped ? received : Date.now()) => {
  const since = parsed(account.logged_in_at);
  const age = (account.refresh_token_age ?? 0) + (now - received) / 1000;
  say(part.loginText, `${since === null ? 'date unknown' : moment(since)}; refresh token ${span(age)} old, of ${TOKEN_DAYS} days`);
  const known = hasToken(account) && !status?.stopped;
  const left = known ? Math.max(0, account.access_expires_in - (now - received) / 1000) : 0;
  const [from, to] = [parsed(account.refreshed_at), parsed(account.access_expires_at)];
  const life = from !== null && to > from ? (to - from) / 1000 : 600;
  part.ring.left.setAttribute('stroke-dashoffset', AROUND * (1 - Math.min(1, left / life)));
  say(part.ring.text, left >= 60 ? `${Math.floor(left / 60)}m` : left > 0 ? `${Math.floor(left)}s` : '–');
  part.ring.svg.setAttribute('aria-label', left > 0 ? `Token valid for ${span(left)}` : 'No valid token');
  if (account.api_key) showKey(part, account.api_key);
  else say(part.token, left > 0 ? `valid for ${span(left)}, until ${time(now + left * 1000)}` : status?.stopped ? 'unknown while the proxy is stopped' : account.state === 'connected' ? 'expired; renewed by the next request' : 'none that is valid');
  const next = parsed(account.next_try);
  showRow(part, 0, isKnown(account) && !isLoggedOut(account));
  showRow(part, 2, !status?.stopped && (next !== null || (left > 0 && account.state === 'connected')));
  if (next !== null) say(part.next, `tries again ${next > now ? relative(next, now) : 'now'}`);
  else if (left > 0) {
    const due = left - Math.min(60, life / 5);
    say(part.next, due > 0 ? `in ${span(due)}, if used until then; else with the next request` : 'due: with the next request');
  }
};

/** Those that match the search, in trouble first. */
const found = () => {
  const words = byId('accounts-search').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const text = account => `${account.account} ${account.company ?? ''} ${account.label ?? ''} ${account.subject ?? ''} ${account.state}`.toLowerCase();
  const matching = words.length ? accounts.filter(account => words.every(word => text(account).includes(word))) : [...accounts];
  const rank = account => (isKnown(account) ? ['bad', 'warn', 'ok'].indexOf(wellness(account)) : 3);
  return matching.sort((a, b) => rank(a) - rank(b));
};

const empty = () => h('article', {class: 'card hollow'}, h('h3', {}, accounts.length ? 'No account matches' : 'No account yet'),
  h('p', {class: 'soft'}, accounts.length ? 'Search by name, company or state.' : 'An account is one company that lets this proxy act for it. Give it a short name above and log in at Pleo.'));

const draw = () => {
  const matching = found();
  const shown = matching.slice(0, most);
  const wanted = shown.map(account => {
    const part = cards.get(account.account) ?? build(account);
    cards.set(account.account, part);
    update(part, account);
    return part.card;
  });
  const place = byId('cards');
  const isSame = wanted.length === place.children.length && wanted.every((card, index) => place.children[index] === card);
  if (!isSame || !wanted.length) place.replaceChildren(...(wanted.length ? wanted : [empty()]));
  const kept = new Set(shown.map(account => account.account));
  for (const name of cards.keys()) if (!kept.has(name)) cards.delete(name);
  const trouble = accounts.filter(account => isKnown(account) && wellness(account) === 'bad').length;
  say(byId('accounts-count'), accounts.length > 1 ? `${count(accounts.length)}${trouble ? `, ${count(trouble)} in trouble` : ''}` : '');
  byId('accounts-search').hidden = accounts.length <= SEARCH_FROM;
  byId('cards-more').hidden = matching.length <= shown.length;
  say(byId('cards-button'), `Show ${count(Math.min(STEP, matching.length - shown.length))} more of ${count(matching.length)}`);
};

/** Takes the accounts of a status. */
export const showAccounts = latest => {
  if (!latest.stopped) received = Date.now();
  [status, accounts] = [latest, latest.accounts];
  soon('accounts', draw);
};

/** Lets search, addition and countdown work. */
export const startAccounts = () => {
  byId('accounts-search').addEventListener('input', () => { most = STEP; soon('accounts', draw); });
  byId('cards-button').addEventListener('click', () => { most += STEP; soon('accounts', draw); });
  byId('add').addEventListener('submit', event => {
    event.preventDefault();
    const name = byId('add-name').value.trim();
    const isName = NAME.test(name);
    say(byId('add-problem'), isName ? '' : 'A name has small letters, digits and dashes, and begins with a letter or digit: acme, north-2.');
    if (!isName) return byId('add-name').focus();
    byId('add-name').value = '';
    window.open(connectAddress(name), '_blank', 'noopener');
  });
  setInterval(() => {
    if (document.hidden || status?.stopped) return;
    for (const account of accounts.length > STEP ? found().slice(0, most) : accounts) {
      const part = cards.get(account.account);
      if (part) tick(part, account);
    }
  }, 1000);
};
