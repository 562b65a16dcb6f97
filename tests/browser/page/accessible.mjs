// The page for everybody: axe finds nothing serious in six states, in both themes, wide and narrow, and nothing
// is wider than the screen.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {open, openPage, Proxy, test, until, verdictIs} from './harness.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const looks = [];
for (const scheme of ['light', 'dark']) for (const width of [1280, 360]) looks.push({scheme, width, height: 800});

const inspect = async (page, state, look) => {
  const found = await page.evaluate(`(() => { const module = undefined, exports = undefined, define = undefined; ${AXE}; return window.axe.run(document, {resultTypes: ['violations']}); })()`);
  const grave = found.violations.filter(({impact}) => impact === 'serious' || impact === 'critical');
  const said = grave.map(({id, nodes}) => `${state} ${JSON.stringify(look)}: ${id} ${nodes.slice(0, 3).map(({html, any}) => `${html} ${any[0]?.message ?? ''}`).join('\n  ')}`);
  assert.deepEqual(said, []);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${state} ${JSON.stringify(look)} is ${over} px too wide`);
  if (process.env.SCREENSHOTS) await page.screenshot({path: `${process.env.SCREENSHOTS}/${state}-${look.scheme}-${look.width}.png`, fullPage: true});
};

const everyLook = (name, state) => test(`axe_finds_nothing_serious_${name}`, async () => {
  const proxy = await Proxy.start();
  for (const look of looks) await state(proxy, look);
  await proxy.end();
});

everyLook('when_all_is_well', async (proxy, look) => {
  const {page, close} = await openPage(proxy, look);
  await verdictIs(page, /will work/);
  await proxy.send(12);
  await proxy.send(2, '/v1/vendors/none');
  await until('they are shown', async () => Number(await page.locator('#grid').getAttribute('data-seq')) >= 12);
  for (const summary of await page.locator('summary:visible').all()) await summary.click();
  await inspect(page, 'well', look);
  await close();
});

everyLook('with_the_details_of_a_captured_request', async (proxy, look) => {
  await proxy.call('/api/capture', {method: 'POST', body: {for_s: 600, account: null}});
  const {page, close} = await openPage(proxy, look);
  await proxy.send(2, '/v2/employees?limit=1');
  await page.locator('#grid .row:not(.head)').filter({hasText: 'employees'}).first().click();
  await page.locator('#detail pre').first().waitFor();
  await inspect(page, 'detail', look);
  await close();
});

everyLook('without_an_account_and_without_requests', async (proxy, look) => {
  await proxy.call('/api/accounts/default/logout', {method: 'POST'});
  const {page, close} = await openPage(proxy, look);
  await verdictIs(page, /Connect|Log in/);
  await page.getByText('No request yet').waitFor();
  await inspect(page, 'empty', look);
  await close();
});

everyLook('in_trouble_with_a_question_open', async (proxy, look) => {
  await proxy.faults({token_answer: {kind: 'status', status: 503}});
  await proxy.call('/api/accounts/default/refresh?force=true', {method: 'POST'});
  const {page, close} = await openPage(proxy, look);
  await verdictIs(page, /for now|refused/);
  await inspect(page, 'trouble', look);
  await page.getByRole('button', {name: 'Disconnect: default'}).click();
  await inspect(page, 'question', look);
  await close();
});

everyLook('when_the_proxy_has_stopped', async (proxy, look) => {
  const {page, close} = await openPage(proxy, look);
  await verdictIs(page, /will work/);
  await proxy.stop();
  await verdictIs(page, /has stopped/);
  await inspect(page, 'stopped', look);
  await close();
  await proxy.resume();
});

everyLook('when_locked_out', async (proxy, look) => {
  const {page, close} = await open(`${proxy.admin}/#key=used`, look);
  await page.getByText('used already').waitFor();
  await inspect(page, 'locked', look);
  await close();
});

everyLook('on_the_pages_around_a_login', async (proxy, look) => {
  for (const [path, state] of [['/callback?error=access_denied&state=x', 'refused'], ['/connect?account=Not%20a%20name', 'no-name']]) {
    const {page, close} = await open(proxy.admin + path, look);
    await inspect(page, state, look);
    await close();
  }
  const {page, close} = await open(`${proxy.admin}/connect?account=second`, look);
  await page.locator('button.yes').click();
  await page.getByRole('heading', {name: /connected/i}).waitFor();
  await inspect(page, 'connected', look);
  await close();
  await proxy.call('/api/accounts/second/logout', {method: 'POST'});
});
