// A person with the page: from the link to a second account, by mouse and by keyboard alone.

import assert from 'node:assert/strict';
import {openPage, Proxy, test, until, untroubled, verdictIs} from './harness.mjs';

const rows = page => page.locator('#grid .row:not(.head):visible');

const rowWith = (page, text) => rows(page).filter({hasText: text}).first();

const clipboard = page => page.evaluate(() => navigator.clipboard.readText());

/** The consent page of the sandbox, and what is said after it. */
const consent = async (popup, agree) => {
  await popup.locator('button.yes').waitFor();
  await agree(popup);
  await popup.getByRole('heading', {name: /connected/i}).waitFor();
  assert.match(await popup.locator('body').innerText(), /close this (page|tab|window)/i);
  await popup.close();
};

test('the_whole_flow_works_by_mouse', async () => {
  const proxy = await Proxy.start();
  const {page, context, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work, as .*\(sandbox\)/);
  assert.equal(await page.evaluate(() => location.hash), '', 'the key is gone from the address');
  assert.deepEqual(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]), [0, 0, '']);
  const html = await page.content();
  assert.ok(!html.includes(proxy.key));

  await proxy.send(3);
  await proxy.send(1, '/v1/vendors/none');
  await rowWith(page, '/v1/companies').click();
  await page.locator('#detail').getByText('Answered by').waitFor();
  await page.getByRole('button', {name: 'Copy as curl'}).click();
  await until('curl is copied', async () => (await clipboard(page)).startsWith('curl '));
  assert.ok((await clipboard(page)).includes(proxy.api), 'it calls the proxy');
  const before = await page.locator('#detail dd').last().innerText();
  await page.getByRole('button', {name: 'Send again'}).click();
  await until('it was sent again and is shown', async () => (await page.locator('#detail dd').last().innerText()) !== before);
  await page.getByRole('button', {name: 'Close the details'}).click();
  assert.ok(await page.locator('#detail').isHidden());

  await page.locator('#quick').getByRole('button', {name: 'Errors'}).click();
  await until('only errors are shown', async () => (await rows(page).count()) === 1);
  assert.match(page.url(), /\?filter=is%3Aerror/);
  await page.locator('#filter').fill('stat:4xx');
  await until('the word is refused', async () => (await page.locator('#filter-problem').innerText()).includes('stat'));
  troubles.splice(0, troubles.length, ...troubles.filter(text => !text.includes('status of 400')));
  await page.locator('#filter').fill('');
  await until('all are shown', async () => (await rows(page).count()) >= 4);

  await page.locator('#add-name').fill('Wrong Name');
  await page.getByRole('button', {name: 'Add account'}).click();
  assert.match(await page.locator('#add-problem').innerText(), /small letters/);
  await page.locator('#add-name').fill('second');
  const [popup] = await Promise.all([context.waitForEvent('page'), page.getByRole('button', {name: 'Add account'}).click()]);
  await consent(popup, async there => there.locator('button.yes').click());
  await page.getByRole('article', {name: 'Account second'}).getByText('connected').waitFor();
  await page.getByRole('button', {name: 'Refresh now: second'}).click();
  await page.locator('#toast').getByText('second: refreshed').waitFor();

  await page.getByRole('button', {name: 'Disconnect: second'}).click();
  await page.getByRole('button', {name: 'Cancel'}).click();
  assert.equal((await proxy.status()).accounts.find(({account}) => account === 'second').state, 'connected');
  await page.getByRole('button', {name: 'Disconnect: second'}).click();
  await page.locator('dialog').getByRole('button', {name: 'Disconnect'}).click();
  await until('it is disconnected', async () => (await proxy.status()).accounts.find(({account}) => account === 'second')?.state !== 'connected');

  await page.getByRole('button', {name: 'Capture bodies'}).click();
  await page.locator('dialog').getByRole('button', {name: 'Capture'}).click();
  await page.getByText('are being kept in memory').waitFor();
  await proxy.send(1, '/v2/employees?limit=2');
  await rowWith(page, '/v2/employees').click();
  await page.locator('#detail pre .j-key').first().waitFor();
  await page.locator('#notices').getByRole('button', {name: 'Stop capturing'}).click();
  await page.getByText('are being kept in memory').waitFor({state: 'detached'});
  await page.getByRole('button', {name: 'Export HAR'}).click();
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', {name: 'Save the file'}).click()]);
  assert.match(download.suggestedFilename(), /\.har$/);
  untroubled(troubles);
  await close();
  await proxy.end();
});

/** Presses Tab until an element of this name has the focus. */
const tabTo = async (page, name) => {
  const focused = () => page.evaluate(() => {
    const {activeElement: at} = document;
    return at.getAttribute('aria-label') ?? (at.id === 'grid' ? 'grid' : at.textContent.trim() || at.id);
  });
  for (let n = 0; n < 80; n++) {
    await page.keyboard.press('Tab');
    if ((await focused()) === name) return;
  }
  assert.fail(`no Tab leads to ${name}`);
};

test('the_whole_flow_works_by_keyboard_alone', async () => {
  const proxy = await Proxy.start();
  const {page, context, troubles, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(5);
  await until('they are shown', async () => (await rows(page).count()) >= 5);
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'grid', 'the first Tab skips to the requests');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  const selected = page.locator('#grid [aria-selected="true"][aria-rowindex="3"]');
  await selected.waitFor();
  assert.equal(await page.locator('#grid').getAttribute('aria-activedescendant'), await selected.getAttribute('id'));
  await page.keyboard.press('Enter');
  await page.locator('#detail').getByText('Answered by').waitFor();
  assert.ok(await page.evaluate(() => document.getElementById('detail').contains(document.activeElement)));
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'grid', 'the focus is back');
  await page.keyboard.press('p');
  assert.equal(await page.locator('#pause').getAttribute('aria-pressed'), 'true');
  const shown = await rows(page).count();
  await proxy.send(2);
  await page.getByText('paused, up to 2 new').waitFor();
  assert.equal(await rows(page).count(), shown);
  await page.keyboard.press('p');
  await until('they are shown', async () => (await rows(page).count()) === shown + 2);
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'filter');
  await page.keyboard.type('status:404');
  await page.getByText('No request matches').waitFor();
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await until('all are shown', async () => (await rows(page).count()) === shown + 2);

  await page.locator('body').press('Shift+Tab');
  await page.evaluate(() => document.activeElement.blur());
  await tabTo(page, 'Name of the new account');
  await page.keyboard.type('second');
  const [popup] = await Promise.all([context.waitForEvent('page'), page.keyboard.press('Enter')]);
  await consent(popup, async there => {
    for (let n = 0; n < 10; n++) {
      await there.keyboard.press('Tab');
      if ((await there.evaluate(() => document.activeElement.value)) === 'allow') break;
    }
    await there.keyboard.press('Enter');
  });
  await page.getByRole('article', {name: 'Account second'}).getByText('connected').waitFor();
  await tabTo(page, 'Refresh now: second');
  await page.keyboard.press('Enter');
  await page.locator('#toast').getByText('second: refreshed').waitFor();
  await tabTo(page, 'Disconnect: second');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Cancel', 'the harmless answer has the focus');
  await page.keyboard.press('Escape');
  assert.equal((await proxy.status()).accounts.find(({account}) => account === 'second').state, 'connected');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Disconnect', 'the focus is back');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await until('it is disconnected', async () => (await proxy.status()).accounts.find(({account}) => account === 'second')?.state !== 'connected');
  untroubled(troubles);
  await close();
  await proxy.end();
});

test('the_focus_goes_in_the_order_of_the_page_and_is_always_seen', async () => {
  const proxy = await Proxy.start();
  const {page, close} = await openPage(proxy);
  await verdictIs(page, /will work/);
  await proxy.send(2);
  await until('they are shown', async () => (await rows(page).count()) >= 2);
  let before = null;
  for (let n = 0; n < 60; n++) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const {activeElement: element} = document;
      if (element === document.body) return null;
      const [box, style] = [element.getBoundingClientRect(), getComputedStyle(element)];
      return {name: element.id || element.textContent.trim().slice(0, 30), left: box.left, top: box.top + scrollY, high: box.height, outline: style.outlineStyle, wide: style.outlineWidth};
    });
    if (at === null) break;
    assert.ok(at.outline !== 'none' && at.wide !== '0px', `${at.name} shows no focus`);
    if (before && n > 1) assert.ok(at.top > before.top - Math.max(before.high, at.high) || at.left > before.left, `${before.name}, then ${at.name}`);
    before = at;
  }
  assert.equal(before.name, 'grid', 'the list of requests is the last');
  await close();
  await proxy.end();
});
