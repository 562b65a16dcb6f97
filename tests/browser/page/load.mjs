// Thousands of requests with the page open: the list stays bounded, and so does what it keeps.

import assert from 'node:assert/strict';
import {Agent, get} from 'node:http';
import {openPage, Proxy, sleep, test, until, untroubled, verdictIs} from './harness.mjs';

/** Requests a second, and for how long. */
const [RATE, SECONDS] = [500, Number(process.env.LOAD_SECONDS ?? 20)];
/** What the page may keep beyond what it had, in bytes: five thousand entries and their rows. */
const GROWTH = 40e6;

const pour = async (api, agent) => {
  let sent = 0;
  const begin = Date.now();
  let under = 0;
  while (Date.now() - begin < SECONDS * 1000) {
    const due = Math.floor((Date.now() - begin) / 1000 * RATE);
    while (sent < due && under < 64) {
      sent++;
      under++;
      get(`${api}/v1/companies/${sent}?n=${sent}`, {agent}, answer => answer.resume().on('close', () => under--)).on('error', () => under--);
    }
    await sleep(5);
  }
  await until('all have ended', () => under === 0);
  return sent;
};

test('thousands_of_requests_leave_the_page_bounded_and_quick', async () => {
  const proxy = await Proxy.start();
  const {page, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  const protocol = await page.context().newCDPSession(page);
  const heap = async () => {
    await protocol.send('HeapProfiler.collectGarbage');
    return (await protocol.send('Runtime.getHeapUsage')).usedSize;
  };
  await page.evaluate(() => {
    window.longest = 0;
    new PerformanceObserver(list => { for (const {duration} of list.getEntries()) window.longest = Math.max(window.longest, duration); }).observe({entryTypes: ['longtask']});
  });
  const before = await heap();
  const agent = new Agent({keepAlive: true, maxSockets: 64});
  const sent = await pour(proxy.api, agent);
  agent.destroy();
  const grid = page.locator('#grid');
  await until('the last is shown', async () => Number(await grid.getAttribute('data-seq')) >= sent);
  assert.ok(Number(await grid.getAttribute('aria-rowcount')) <= 5001, 'the list is bounded');
  assert.ok((await page.locator('#grid .row').count()) < 80, 'only rows in view are elements');
  await grid.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowUp');
  await page.locator('#grid [aria-selected="true"]').waitFor();
  const longest = Math.round(await page.evaluate(() => window.longest));
  const after = await heap();
  assert.ok(after - before < GROWTH, `${before} bytes, then ${after}`);
  console.log(`  ${sent} requests; longest task ${longest} ms; heap ${(before / 1e6).toFixed(1)} MB, then ${(after / 1e6).toFixed(1)} MB`);
  untroubled(troubles);
  await close();
  await proxy.end();
});
