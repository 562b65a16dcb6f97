// The page when something is wrong: no key, no account, a failing refresh, a proxy that stops.

import assert from 'node:assert/strict';
import {open, openPage, Proxy, sleep, test, until, untroubled, verdict, verdictIs} from './harness.mjs';

const seq = page => page.locator('#grid').getAttribute('data-seq').then(Number);

test('without_a_link_that_works_the_page_says_how_to_open_it', async () => {
  const proxy = await Proxy.start();
  const link = await proxy.link();
  const first = await open(link);
  await verdictIs(first.page, /will work/);
  for (const [address, problem] of [[link, /used already or has expired/], [proxy.admin, /^$/]]) {
    const {page, troubles, close} = await open(address);
    await page.getByText('pleo-proxy open').waitFor();
    await until('it says so', async () => problem.test(await page.locator('#problem').textContent()));
    assert.ok(await page.locator('#page').isHidden());
    assert.ok(!(await page.content()).includes('Harbour'), 'no data');
    untroubled(troubles, /status of 401/);
    await close();
  }
  untroubled(first.troubles);
  await first.close();
  await proxy.end();
});

test('a_proxy_that_stops_is_called_stopped_and_the_page_comes_back_without_a_gap', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(4);
  await until('they are shown', async () => (await seq(page)) === 4);
  await proxy.stop();
  await verdictIs(page, /has stopped/);
  assert.match(await page.title(), /✗/);
  await proxy.resume();
  const sent = await proxy.send(7);
  assert.deepEqual(new Set(sent), new Set([200]));
  await verdictIs(page, /will work/);
  await until('what was sent meanwhile is shown', async () => (await seq(page)) === 7);
  assert.equal(await page.locator('#grid').getAttribute('aria-rowcount'), '8', 'seven and the head');
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('a_proxy_that_hangs_is_called_stopped', async () => {
  const proxy = await Proxy.start();
  const {page, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  const {pid} = await proxy.status();
  process.kill(pid, 'SIGSTOP');
  await verdictIs(page, /has stopped/);
  process.kill(pid, 'SIGCONT');
  await verdictIs(page, /will work/);
  await close();
  await proxy.end();
});

test('a_connection_that_breaks_is_taken_up_where_it_was', async () => {
  const proxy = await Proxy.start();
  const {page, context, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(3);
  await until('they are shown', async () => (await seq(page)) === 3);
  await context.setOffline(true);
  await sleep(500);
  await proxy.send(30);
  await context.setOffline(false);
  await until('all are shown', async () => (await seq(page)) === 33);
  assert.equal(await page.locator('#grid').getAttribute('aria-rowcount'), '34');
  untroubled(troubles, /ERR_(INTERNET_DISCONNECTED|CONNECTION|INCOMPLETE|EMPTY|NETWORK)/);
  await close();
  await proxy.end();
});

test('without_an_account_the_one_thing_to_do_is_to_connect_one', async () => {
  const proxy = await Proxy.start();
  await proxy.call('/api/accounts/default/logout', {method: 'POST'});
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /Connect a company|Log in again/);
  assert.match(await page.locator('#verdict-do a').getAttribute('href'), /^\/connect\?account=default$/);
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('a_refresh_that_fails_is_said_with_its_reason_and_goes_when_it_works_again', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.faults({token_answer: {kind: 'status', status: 503}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await verdictIs(page, /for now|refused/);
  await page.locator('.card .why').getByText('503').waitFor();
  await proxy.faults({});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await verdictIs(page, /will work, as .*\(sandbox\)$/);
  await proxy.faults({token_answer: {kind: 'error', error: 'invalid_grant'}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await verdictIs(page, /Log in again/);
  await proxy.send(1);
  await page.locator('#grid .row').filter({hasText: 'login_required'}).first().waitFor();
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('of_several_accounts_the_verdict_is_about_the_one_that_requests_get', async () => {
  const proxy = await Proxy.start('default_account = "north"');
  const {page, context, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work, as/);
  const {authorize_url: address} = await (await proxy.call('/api/accounts/acme/login', {method: 'POST'})).json();
  const there = await context.newPage();
  await there.goto(address);
  await there.locator('button.yes').click();
  await there.getByRole('heading', {name: /connected/i}).waitFor();
  await page.getByRole('article', {name: 'Account acme'}).waitFor();
  const name = async account => (await proxy.status()).accounts.find(one => one.account === account).company;
  assert.ok((await verdict(page)).includes(`as ${await name('north')} (`));
  assert.notEqual(await name('north'), await name('acme'));
  await proxy.call('/api/accounts/acme/logout', {method: 'POST'});
  await page.locator('#verdict-text').getByText('1 other account needs attention').waitFor();
  untroubled(troubles);
  await close();
  await proxy.end();
});
