// The page follows what happens elsewhere: at Pleo, in a terminal, and to the proxy itself.

import assert from 'node:assert/strict';
import {openPage, Proxy, test, until, untroubled, verdictIs} from './harness.mjs';

const shot = async (page, name) => {
  if (process.env.SCREENSHOTS) await page.screenshot({path: `${process.env.SCREENSHOTS}/${name}.png`, fullPage: true});
};

const toneIs = (page, tone) => until(`the verdict is ${tone}`, async () => (await page.locator('#verdict').getAttribute('class')) === `verdict ${tone}`);

test('a_wait_that_pleo_asks_for_is_the_verdict_while_it_lasts', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.faults({api_answer: {kind: 'status', status: 429, retry_after: '4'}});
  assert.deepEqual(await proxy.send(1), [429]);
  await verdictIs(page, /^Pleo asked default to wait \d s$/);
  await toneIs(page, 'warn');
  await shot(page, 'wait');
  await verdictIs(page, /will work/);
  await toneIs(page, 'ok');
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('a_pace_that_is_used_up_is_the_verdict', async () => {
  const proxy = await Proxy.start('upstream.pace = "1/min"');
  const {page, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(1);
  await verdictIs(page, /^default: pace of 1\/min reached$/);
  await toneIs(page, 'warn');
  await close();
  await proxy.end();
});

test('a_capture_that_a_terminal_begins_and_ends_is_shown_as_it_goes', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.call('/api/capture', {method: 'POST', body: {for_s: 600, account: null}});
  const line = page.locator('#notices .loud');
  await line.getByText('0 bodies').waitFor();
  await proxy.send(2);
  await line.getByText(/\([1-9]\d* bod(y|ies), /).waitFor();
  assert.equal(await page.locator('#notices p').filter({hasText: 'kept in memory'}).count(), 1, 'it is said once');
  await proxy.call('/api/capture', {method: 'DELETE'});
  await line.waitFor({state: 'detached'});
  await proxy.call('/api/capture', {method: 'POST', body: {for_s: 600, account: null}});
  await line.waitFor();
  await proxy.stop();
  await verdictIs(page, /has stopped/);
  await line.waitFor({state: 'detached'});
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('a_logout_is_said_once_and_that_others_still_work', async () => {
  const proxy = await Proxy.start();
  const {page, context, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work, as/);
  const {authorize_url: address} = await (await proxy.call('/api/accounts/acme/login', {method: 'POST'})).json();
  const there = await context.newPage();
  await there.goto(address);
  await there.locator('button.yes').click();
  await there.getByRole('heading', {name: /connected/i}).waitFor();
  const tags = page.locator('.card .tag:visible');
  await page.getByRole('article', {name: 'Account acme'}).waitFor();
  await page.getByRole('article', {name: 'Account default'}).locator('.tag').waitFor();
  assert.equal(await tags.count(), 1, 'one serves requests that name none');
  await proxy.call('/api/accounts/acme/logout', {method: 'POST'});
  const card = page.getByRole('article', {name: 'Account acme'});
  await card.locator('.state').getByText('logged out').waitFor();
  const said = await card.innerText();
  assert.equal(said.match(/logged out|not connected|login/g).length, 1, said);
  await shot(page, 'logged-out');
  untroubled(troubles);
  await close();
  await proxy.end();
});

/** The page of a proxy that says this of its accounts. */
const openWith = async (proxy, change) => {
  const opened = await openPage(proxy);
  await opened.page.route('**/api/events?*', route => route.fulfill({status: 404, body: '{}'}));
  await opened.page.route('**/api/status', async route => {
    const status = await proxy.status();
    change(status);
    await route.fulfill({json: status});
  });
  await opened.page.reload();
  return opened;
};

test('of_two_accounts_without_a_default_the_verdict_warns', async () => {
  const proxy = await Proxy.start();
  const {page, close} = await openWith(proxy, status => {
    status.default_account = null;
    status.accounts.push({...status.accounts[0], account: 'acme', company: 'Acme'});
  });
  await verdictIs(page, /^Requests that name no account are refused$/);
  await toneIs(page, 'warn');
  await shot(page, 'two');
  await close();
  await proxy.end();
});

test('an_account_that_was_logged_out_says_what_still_works', async () => {
  const proxy = await Proxy.start();
  await proxy.call('/api/accounts/default/logout', {method: 'POST'});
  const {page, close} = await openWith(proxy, status => {
    const [out] = status.accounts;
    status.default_account = 'default';
    status.accounts.push({...out, account: 'acme', state: 'connected', why: null, access_expires_in: 0, refresh_token_age: 3});
  });
  await verdictIs(page, /^Log in again: default is logged out/);
  await page.locator('#verdict-text').getByText('another connected account still work').waitFor();
  await page.getByRole('article', {name: 'Account acme'}).getByText('expired; renewed by the next request').waitFor();
  assert.deepEqual(await page.locator('a.button').allInnerTexts(), ['Log in again', 'Log in again', 'Log in again']);
  await shot(page, 'out');
  await close();
  await proxy.end();
});

test('below_the_verdict_of_a_stopped_proxy_nothing_can_be_done_and_another_run_begins_at_nothing', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(3);
  await page.locator('.chart').getByText('3 requests').waitFor();
  await proxy.stop();
  await verdictIs(page, /has stopped/);
  assert.equal(await page.locator('#page > :not(#verdict):not([inert])').count(), 0);
  assert.equal(await page.locator('#page > :not(#verdict) button:visible').count(), 0);
  await page.locator('.card').getByText('unknown while the proxy is stopped').waitFor();
  await shot(page, 'stopped');
  await proxy.resume();
  await verdictIs(page, /will work/);
  assert.equal(await page.locator('#page > [inert]').count(), 0);
  await page.locator('.chart').getByText('Nothing was sent').waitFor();
  await page.locator('.chart').getByText('Pleo allows').waitFor();
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('a_proxy_that_tries_again_by_itself_says_when_and_lets_it_be_now', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.faults({token_answer: {kind: 'status', status: 503}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await verdictIs(page, /for now/);
  await page.locator('#verdict-do').getByText(/Nothing to do: next try (in .*|now)\./).waitFor();
  await page.locator('.card').getByText('Last refresh attempt').waitFor();
  await shot(page, 'retrying');
  await proxy.faults({});
  await page.getByRole('button', {name: 'Try now: default'}).click();
  await verdictIs(page, /will work, as .*\(sandbox\)$/);
  await toneIs(page, 'ok');
  await proxy.send(3, '/v1/vendors/none');
  await proxy.faults({token_answer: {kind: 'error', error: 'invalid_client'}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await verdictIs(page, /^A setting must change/);
  await proxy.faults({token_answer: {kind: 'error', error: 'invalid_grant'}});
  await page.getByRole('button', {name: 'Try now: default'}).click();
  await verdictIs(page, /^Log in again/);
  await proxy.send(1);
  const refused = page.locator('#grid .row').filter({hasText: 'login_required'}).first();
  await refused.locator('.status .tag').getByText('proxy').waitFor();
  const answered = page.locator('#grid .row:not(.head)').filter({hasText: '/v1/vendors'}).first();
  assert.ok(await answered.locator('.status .tag').isHidden(), 'Pleo answered it');
  await page.locator('.chart .fill-warn').first().waitFor({state: 'attached'});
  assert.equal(await page.locator('.chart').first().locator('.fill-accent').getAttribute('d'), '', 'no success, no bar');
  await shot(page, 'refused');
  untroubled(troubles, /status of 503/);
  await close();
  await proxy.end();
});
