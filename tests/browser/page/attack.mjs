// What callers and Pleo write is shown as they wrote it: no part of it is ever run, and none changes the page.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {request as send} from 'node:http';
import path from 'node:path';
import {openPage, Proxy, test, until, untroubled, verdictIs} from './harness.mjs';

const MARKUP = [
  '<img src=x onerror="ran=1">', '<svg onload="ran=1">', '<script>ran=1</script>', '"><script>ran=1</script>', '\'"><img src=x onerror=ran=1>',
  '<iframe srcdoc="<script>parent.ran=1</script>">', '<a href="javascript:ran=1" id=x>x</a>', '<style>*{display:none}</style>',
  '<form action=//evil.test><button>x', '<base href="//evil.test/">', '<meta http-equiv=refresh content="0;url=javascript:ran=1">', '{{constructor.constructor("ran=1")()}}',
];

/** Twelve payloads by five ways: sixty. */
const WAYS = {
  path: payload => ({path: `/v1/${encodeURIComponent(payload).replaceAll('%20', '+')}`}),
  'raw path': payload => ({path: `/v1/vendors/${payload.replaceAll(' ', '/').replaceAll('\\', '')}`}),
  query: payload => ({path: `/v1/companies?${encodeURIComponent(payload)}=1&${payload.replaceAll(' ', '+').replaceAll('#', '')}`}),
  'user agent': payload => ({path: '/v1/companies', headers: {'user-agent': payload, traceparent: payload}}),
  'account and method': payload => ({path: '/v1/companies', headers: {'pleo-account': payload}, method: 'PUT'}),
  'keys and values of JSON': payload => ({path: '/v1/vendors', method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({[payload]: payload, name: [payload]})}),
};

const deliver = (api, {path, headers = {}, method = 'GET', body}) => new Promise(done => {
  const {hostname, port} = new URL(api);
  try {
    const sent = send({hostname, port, path, method, headers, insecureHTTPParser: true}, answer => {
      answer.resume();
      answer.on('end', () => done(true)).on('error', () => done(false));
    });
    sent.on('error', () => done(false));
    sent.end(body);
  } catch {
    done(false);
  }
});

test('sixty_payloads_in_everything_that_callers_write_run_nowhere', async () => {
  const proxy = await Proxy.start();
  await proxy.call('/api/capture', {method: 'POST', body: {for_s: 600, account: null}});
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  let tried = 0;
  for (const way of Object.values(WAYS)) {
    for (const payload of MARKUP) tried += Number(await deliver(proxy.api, way(payload)));
  }
  assert.ok(tried >= 60, `only ${tried} arrived`);
  // And what Pleo writes: a reason of a refusal, in the words of the authorization server.
  await proxy.faults({token_answer: {kind: 'error', error: MARKUP[0]}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  await proxy.call(`/api/accounts/default/login?paste=true`, {method: 'POST', body: {redirected_url: `http://127.0.0.1/callback?error=${encodeURIComponent(MARKUP[0])}&state=x`}});
  const grid = page.locator('#grid');
  await until('they are shown', async () => Number(await grid.getAttribute('aria-rowcount')) > 60);
  await grid.focus();
  await page.keyboard.press('Home');
  await page.keyboard.press('Enter');
  await page.locator('#detail').getByText('Arrived').waitFor();
  await grid.focus();
  const seen = new Set();
  for (let n = 1; n < 75; n++) {
    await until('the details are there', async () => (await page.locator('#detail h4').count()) > 1 || (await page.locator('#detail .problem').count()) > 0);
    seen.add(await page.locator('#detail h3').innerText());
    await page.keyboard.press('ArrowDown');
  }
  assert.ok(seen.size >= 15, `${seen.size} different ones were looked at`);
  for (const text of MARKUP.slice(0, 3)) {
    await page.locator('#filter').fill(text);
    await page.locator('#filter').press('Enter');
  }
  await page.goto(`${proxy.admin}/?filter=${encodeURIComponent(MARKUP[0])}#${encodeURIComponent(MARKUP[1])}`);
  await page.locator('#page').waitFor();
  const foreign = await page.evaluate(() => ['img', 'iframe', 'style', 'base', 'form[action]', 'meta[http-equiv]', 'a[href^="javascript"]', 'script:not([src="/assets/main.js"])'].filter(what => document.querySelector(what)));
  assert.deepEqual(foreign, []);
  // The watch is no blind one: a script that ran would have been seen.
  await page.evaluate(() => { window.ran = 'probe'; });
  await until('the probe is seen', () => troubles.includes('ran: probe'));
  troubles.splice(troubles.indexOf('ran: probe'), 1);
  untroubled(troubles, /status of (400|404|409)/);
  await close();
  await proxy.end();
});

test('the_page_is_small_and_loads_nothing_from_elsewhere', async () => {
  const proxy = await Proxy.start();
  const {page, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  const loaded = await page.evaluate(() => [location.href, ...performance.getEntriesByType('resource').map(({name}) => name)]);
  const files = [...new Set(loaded)].filter(name => /\/assets\/|\/$/.test(name));
  assert.ok(loaded.every(name => name.startsWith(proxy.admin)), loaded.join('\n'));
  let size = 0;
  for (const name of [...files, `${proxy.admin}/assets/icon.svg`]) size += (await (await fetch(name)).arrayBuffer()).byteLength;
  assert.ok(files.length > 10 && size <= 100 * 1000 + 500, `${files.length} files, ${size} bytes`);
  const policy = (await fetch(proxy.admin)).headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'.*require-trusted-types-for 'script'; trusted-types 'none'/);
  const outcome = await page.evaluate(() => {
    try {
      document.body.innerHTML = '<b>x</b>';
      return 'written';
    } catch (error) {
      return error.name;
    }
  });
  assert.equal(outcome, 'TypeError', 'Trusted Types stop markup made of text');
  await close();
  await proxy.end();
});

/** A secret as callers write it into what they should not. */
const WRITINGS = {
  raw: secret => secret,
  percent: secret => [...Buffer.from(secret)].map(byte => `%${byte.toString(16).padStart(2, '0')}`).join(''),
  base64: secret => Buffer.from(`id:${secret}`).toString('base64'),
  hex: secret => Buffer.from(secret).toString('hex'),
};

test('no_token_is_in_the_page_whatever_callers_do_with_it', async () => {
  const proxy = await Proxy.start();
  const record = () => JSON.parse(readFileSync(path.join(store, 'default.json'), 'utf8')).record.grant;
  const {store} = await proxy.status();
  const secrets = [];
  for (const refresh of [false, true]) {
    if (refresh) await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
    const {access_token: access, refresh_token: renewal} = record();
    secrets.push(access, renewal);
  }
  secrets.push(proxy.key, 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
  assert.ok(secrets.every(secret => secret.length >= 16) && new Set(secrets).size === 6, 'six secrets');
  await proxy.call('/api/capture', {method: 'POST', body: {for_s: 600, account: null}});
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  let sent = 0;
  for (const secret of secrets) {
    for (const write of Object.values(WRITINGS)) {
      for (const way of Object.values(WAYS)) sent += Number(await deliver(proxy.api, way(write(secret))));
    }
  }
  assert.ok(sent > 120, `only ${sent} arrived`);
  const grid = page.locator('#grid');
  await until('they are shown', async () => Number(await grid.getAttribute('aria-rowcount')) > 100);
  await grid.focus();
  await page.keyboard.press('Home');
  await page.keyboard.press('Enter');
  await page.locator('#detail').getByText('Arrived').waitFor();
  await grid.focus();
  // Searched as it is, and with each writing of each secret: the page decodes nothing.
  const shown = new Set();
  const search = async () => {
    const html = await page.evaluate(() => document.documentElement.outerHTML);
    shown.add(html.length);
    for (const secret of secrets) {
      for (const [name, write] of Object.entries(WRITINGS)) {
        const written = write(secret);
        assert.ok(!html.toLowerCase().includes(written.slice(0, 24).toLowerCase()), `${secrets.indexOf(secret)} as ${name}`);
      }
    }
  };
  for (let n = 0; n < 130; n++) {
    await until('the details are there', async () => (await page.locator('#detail h4').count()) > 1 || (await page.locator('#detail .problem').count()) > 0);
    await search();
    await page.keyboard.press('ArrowDown');
  }
  assert.ok(shown.size >= 15, `${shown.size} different pages were searched`);
  assert.ok((await page.content()).includes('[redacted]'), 'what was taken out was there');
  untroubled(troubles, /status of (400|404|409)/);
  await close();
  await proxy.end();
});
