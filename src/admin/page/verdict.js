// The first thing on the page: will a request work, and if not, the one thing to do.

import {post} from './api.js';
import {attempt, byId, h, say, shell, toast, wear} from './dom.js';
import {count, counted, parsed, span} from './format.js';

const MARKS = {
  ok: 'M16 3a13 13 0 1 0 0 26a13 13 0 1 0 0-26M10 16.5l4 4 8-9',
  warn: 'M16 4 3 27h26zM16 12v7M16 23v.2',
  bad: 'M16 3a13 13 0 1 0 0 26a13 13 0 1 0 0-26M11 11l10 10M21 11 11 21',
  todo: 'M16 3a13 13 0 1 0 0 26a13 13 0 1 0 0-26M10 16h12m-5-5 5 5-5 5',
  wait: 'M16 3a13 13 0 1 0 0 26a13 13 0 1 0 0-26M16 9v7l5 3',
};

export const nameOf = account => account.label || account.company || account.account;

/** Whether an account has ever been connected. */
export const isKnown = account => account.generation > 0 || account.subject !== null;

/** Whether somebody logged it out: Pleo did not end the login. */
export const isLoggedOut = account => account.state === 'login_required' && isKnown(account) && account.subject === null;

export const hasToken = account => (account.access_expires_in ?? 0) > 0;

/** How well an account is: `ok`, `warn` (it serves, for now) or `bad`. */
export const wellness = account => {
  if (account.state === 'connected') return 'ok';
  if (account.state === 'unsaved') return 'warn';
  const isOut = account.state === 'login_required' || account.state === 'store_error';
  return !isOut && hasToken(account) ? 'warn' : 'bad';
};

/** Which account a request gets that names none: an account, `null` for none, or a list to choose from. */
const defaultAccount = ({accounts, default_account: name}) => {
  if (name) return accounts.find(({account}) => account === name) ?? null;
  const granted = accounts.filter(account => account.refresh_token_age !== null || account.api_key);
  return granted.length ? granted : null;
};

/** The account of a status that requests get that name none. */
export const servesUnnamed = (status, account) => defaultAccount(status) === account;

/** Asks Pleo for a new token now, and says how it went. */
export const refresh = async (account, button) => {
  button.disabled = true;
  await attempt(`${account} was not refreshed`, async () => {
    const {outcome, account: after} = await post(`/api/accounts/${encodeURIComponent(account)}/refresh?force=true`);
    toast(`${account}: ${outcome}${after?.why ? `, ${after.why}` : ''}`);
  });
  button.disabled = false;
};

export const connectAddress = account => `/connect?account=${encodeURIComponent(account)}`;

/** A link to a login, in a tab of its own, so that this page stays. */
export const connectLink = (account, text, kind = 'button') => h('a', {
  class: kind, href: connectAddress(account), target: '_blank', rel: 'noopener',
}, text);

const CONNECT = 'No account is connected, so requests are refused. Connecting takes a minute, in the browser.';

const REASONS = {
  retrying: 'A new token could not be had yet; the proxy tries again by itself.',
  uncertain: 'A refresh was interrupted and its outcome is unknown; the proxy is finding out by itself.',
  locked_elsewhere: 'Another process holds this account.',
  store_unwritable: 'The store cannot be written, so no token is refreshed.',
};

/** Times that run down. They stand outside what is read aloud, so they change by themselves. */
const [clock, nextTry] = [h('span', {'aria-hidden': 'true'}), h('span', {class: 'soft'})];

const tryNow = ({account}) => h('button', {type: 'button', 'aria-label': `Try now: ${account}`, onclick: event => refresh(account, event.currentTarget)}, 'Try now');

/** What is left to do for an account that is tried again by itself. */
const patience = account => {
  const at = parsed(account.next_try);
  const wait = at === null ? 0 : (at - Date.now()) / 1000;
  say(nextTry, `Nothing to do: next try ${wait >= 1 ? `in ${span(wait)}` : 'now'}.`);
  return [nextTry, tryNow(account)];
};

const works = (status, account, howLong = '') => [
  'Requests to ', h('code', {}, status.api), ` will work${howLong}, as ${nameOf(account)} (${status.environment})`,
];

const ofAccount = (status, account) => {
  const name = nameOf(account);
  const curl = `curl ${status.api}/v1/companies`;
  const why = account.why ? `${account.why[0].toUpperCase()}${account.why.slice(1)}. ` : '';
  const general = REASONS[account.state] ?? '';
  switch (account.state) {
    case 'connected':
      return {tone: 'ok', title: works(status, account), text: 'Send them without authentication; the proxy adds it.', actions: [shell(curl)]};
    case 'unsaved':
      return {tone: 'warn', title: works(status, account), text: `But new tokens are in memory only. ${why}Make room on the disk, and do not stop the proxy before they are saved.`};
    case 'login_required':
      if (!isKnown(account)) {
        return {tone: 'todo', title: ['Connect a company to Pleo'], text: CONNECT, actions: [connectLink(account.account, `Connect ${account.account}`, 'button primary')]};
      }
      if (account.api_key) {
        return {tone: 'bad', title: [`Replace the API key of ${name}: requests are refused until then`], text: `${why}Pleo is asked again every 5 minutes.`, actions: [tryNow(account)]};
      }
      return {tone: 'bad', title: [isLoggedOut(account) ? `Log in again: ${name} is logged out, so its requests are refused` : `Log in again as ${name}: requests are refused until then`], text: isLoggedOut(account) ? '' : why, actions: [connectLink(account.account, 'Log in again', 'button primary'), shell(`pleo-proxy login ${account.account}`)]};
    case 'store_error':
      return {tone: 'bad', title: [`Requests are refused: what is stored of ${name} cannot be used`], text: why};
  }
  const isSerious = account.state === 'misconfigured';
  const actions = account.next_try && !isSerious ? patience(account) : [tryNow(account)];
  const left = `The current token stays valid for ${span(Math.ceil(account.access_expires_in / 60) * 60)} at most.`;
  if (wellness(account) === 'warn') {
    return {tone: 'warn', title: isSerious ? [`A setting must change, or requests as ${name} will be refused`] : works(status, account, ' for now'), text: `${general} ${why}${left}`, actions};
  }
  return {tone: 'bad', title: [isSerious ? `A setting must change: requests as ${name} are refused` : `Requests as ${name} are refused for now`], text: `${general} ${why}`, actions};
};

const ofChoice = (status, accounts) => {
  const first = accounts.find(account => wellness(account) === 'ok') ?? accounts[0];
  const well = accounts.filter(account => wellness(account) !== 'bad').length;
  return {
    tone: well ? 'warn' : 'bad',
    title: ['Requests that name no account are refused'],
    text: `${count(well)} of ${count(accounts.length)} accounts can serve (${status.environment}). Send the header Pleo-Account, begin the path with /@NAME, or set default_account.`,
    actions: [shell(`curl -H 'Pleo-Account: ${first.account}' ${status.api}/v1/companies`)],
  };
};

/** What keeps requests waiting or refused though their account is well; null if nothing does. */
const busy = (rate, accounts) => {
  const among = (rate?.accounts ?? []).filter(({account}) => accounts.some(one => one.account === account));
  const told = among.find(one => one.retry_after_s > 0);
  if (told) {
    say(clock, span(told.retry_after_s));
    return {tone: 'warn', title: [`Pleo asked ${told.account} to wait `, clock], text: 'Until then Pleo refuses its requests. Send fewer of them; the setting upstream.pace does it for you.'};
  }
  const full = rate?.pace ? among.find(one => one.last_minute >= rate.pace) : null;
  return full ? {tone: 'warn', title: [`${full.account}: pace of ${rate.pace}/min reached`], text: 'Reads wait for their turn, as the setting upstream.pace says.'} : null;
};

/** What to say of a status, a connection and a rate. */
export const judge = (status, connection, rate) => {
  if (connection === 'stopped') {
    return {tone: 'bad', title: ['The proxy has stopped'], text: 'No request works until it runs again. Start it; this page comes back by itself.', actions: [shell('pleo-proxy')]};
  }
  if (!status) return {tone: 'wait', title: ['Looking at the proxy'], text: ''};
  if (status.ending) {
    return {tone: 'warn', title: ['The proxy is stopping'], text: 'Requests under way may finish; new ones are refused.'};
  }
  if (status.stopped_tasks?.some(task => task.includes('worker'))) {
    return {tone: 'bad', title: ['The proxy accepts no requests'], text: `A part of it has stopped: ${status.stopped_tasks.join(', ')}. Restart it.`, actions: [shell('pleo-proxy stop')]};
  }
  const chosen = defaultAccount(status);
  if (chosen === null) {
    const name = status.accounts[0]?.account ?? 'default';
    return {tone: 'todo', title: ['Connect a company to Pleo'], text: CONNECT, actions: [connectLink(name, `Connect ${name}`, 'button primary'), shell(`pleo-proxy login ${name}`)]};
  }
  let verdict = Array.isArray(chosen) ? ofChoice(status, chosen) : ofAccount(status, chosen);
  if (!Array.isArray(chosen) && verdict.tone === 'ok') verdict = busy(rate, [chosen]) ?? verdict;
  const serving = status.accounts.filter(account => account !== chosen && wellness(account) !== 'bad').length;
  if (!Array.isArray(chosen) && wellness(chosen) === 'bad' && serving) verdict.text += ' Requests that name another connected account still work.';
  const others = status.accounts.filter(account => account !== chosen && isKnown(account) && wellness(account) === 'bad').length;
  if (others) verdict.text += ` ${counted(others, Array.isArray(chosen) ? 'account' : 'other account')} need${others === 1 ? 's' : ''} attention, below.`;
  return verdict;
};

const shown = {};

/** Whether something is not what was shown last. */
const differs = (what, parts) => {
  const key = JSON.stringify(parts.map(part => {
    if (part === clock || part === nextTry || typeof part === 'string') return typeof part === 'string' ? part : '';
    return part.textContent + (part.href ?? part.getAttribute('aria-label') ?? '');
  }));
  if (shown[what] === key) return false;
  shown[what] = key;
  return true;
};

/** Shows it, where it differs from what is shown. */
export const showVerdict = (status, connection, rate) => {
  const {tone, title, text, actions = []} = judge(status, connection, rate);
  wear(byId('verdict'), `verdict ${tone}`);
  byId('verdict-mark').setAttribute('d', MARKS[tone]);
  if (differs('title', title)) byId('verdict-title').replaceChildren(...title);
  say(byId('verdict-text'), text);
  if (differs('actions', actions)) byId('verdict-do').replaceChildren(...actions);
  const name = {warn: '⚠ ', bad: '✗ '}[tone] ?? '';
  say(document.querySelector('title'), `${name}pleo-proxy${status ? ` (${status.environment})` : ''}`);
};
