// The real proxy with its sandbox, a Chromium, and what every test of the page looks at besides: errors in
// the console, scripts that ran uninvited, and reports of the policy.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:net';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {chromium} from 'playwright-core';

const PROGRAM = process.env.PLEO_PROXY_PROGRAM;
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** What a busy machine may take; only a test that fails waits so long, in milliseconds. */
export const PATIENCE = 60000;

const tests = [];

/** Registers a test, named by what it shows. */
export const test = (name, body) => tests.push({name, body});

export const sleep = ms => new Promise(done => setTimeout(done, ms));

/** Waits until something is so. */
export const until = async (what, isSo) => {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const value = await isSo();
    if (value) return value;
    assert.ok(Date.now() < end, `never: ${what}`);
    await sleep(50);
  }
};

const freePort = () => new Promise((done, failed) => {
  const server = createServer();
  server.once('error', failed);
  server.listen(0, '127.0.0.1', () => {
    const {port} = server.address();
    server.close(() => done(port));
  });
});

/** Those that run, so that a test that fails leaves none behind. */
const started = new Set();

/** A proxy of its own, on ports that stay over a restart. */
export class Proxy {
  #child = null;

  /** `top` stands before the first table of the configuration. */
  static async start(top = '') {
    const proxy = new Proxy();
    started.add(proxy);
    proxy.place = mkdtempSync(path.join(tmpdir(), 'pleo-proxy-page-'));
    const [api, admin] = [await freePort(), await freePort()];
    writeFileSync(path.join(proxy.place, 'proxy.toml'),
      `environment = "sandbox"\n${top}\n[listen]\napi = "127.0.0.1:${api}"\nadmin = "127.0.0.1:${admin}"\n`, {mode: 0o600});
    await proxy.resume();
    return proxy;
  }

  /** Starts the process, first or again. */
  async resume() {
    const env = {PATH: process.env.PATH, HOME: this.place, XDG_STATE_HOME: path.join(this.place, 'state')};
    this.#child = spawn(PROGRAM, ['serve', '--json'], {cwd: this.place, env, stdio: ['ignore', 'pipe', 'ignore']});
    let said = '';
    this.#child.stdout.on('data', data => { said += data; });
    const line = await until('the proxy is ready', () => (said.includes('\n') ? said : this.#child.exitCode !== null && 'over'));
    assert.notEqual(line, 'over', 'the proxy ended at once');
    Object.assign(this, JSON.parse(line.split('\n')[0]));
    this.key = readFileSync(path.join(this.place, 'state/pleo-proxy/sandbox/admin.key'), 'utf8').trim();
    this.upstream = (await this.status()).upstream;
  }

  /** Ends the process at once, as a crash does, or in order. */
  async stop(signal = 'SIGKILL') {
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const over = new Promise(done => child.once('exit', done));
    child.kill(signal);
    await over;
  }

  async end() {
    started.delete(this);
    await this.stop();
    rmSync(this.place, {recursive: true, force: true});
  }

  async call(route, {method = 'GET', body} = {}) {
    const headers = {authorization: `Bearer ${this.key}`, 'content-type': 'application/json'};
    return fetch(this.admin + route, {method, headers, body: body === undefined ? undefined : JSON.stringify(body)});
  }

  async status() { return (await this.call('/api/status')).json(); }

  /** A link that opens the page once. */
  async link() { return (await (await this.call('/api/session', {method: 'POST'})).json()).url; }

  /** What the sandbox does wrong from now on. */
  async faults(faults) {
    const answer = await fetch(`${this.upstream}/sandbox/faults`, {
      method: 'POST', headers: {'x-sandbox-control': '1', 'content-type': 'application/json'}, body: JSON.stringify(faults),
    });
    assert.equal(answer.status, 200, await answer.text());
  }

  /** Some requests of a tool. */
  async send(times = 1, route = '/v1/companies', options = {}) {
    const statuses = [];
    for (let n = 0; n < times; n++) {
      const answer = await fetch(this.api + route, options);
      await answer.arrayBuffer();
      statuses.push(answer.status);
    }
    return statuses;
  }
}

let browser;

/** A page of its own context. `troubles` are what it complained of. */
export const open = async (url, {scheme = 'light', width = 1280, height = 900} = {}) => {
  browser ??= await chromium.launch({
    executablePath: CHROMIUM,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
  });
  const context = await browser.newContext({colorScheme: scheme, viewport: {width, height}, permissions: ['clipboard-read', 'clipboard-write']});
  context.setDefaultTimeout(PATIENCE);
  const troubles = [];
  await context.exposeBinding('reportTrouble', (source, text) => troubles.push(text));
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', event => window.reportTrouble(`policy: ${event.violatedDirective} ${event.blockedURI}`));
    // The first document of a new window may share its global with the next one, so this may run twice in it.
    Object.defineProperty(window, 'ran', {configurable: true, set: how => window.reportTrouble(`ran: ${how}`)});
  });
  const page = await context.newPage();
  const watch = one => {
    one.on('console', message => {
      const {url} = message.location();
      // The consent page of the sandbox has no icon.
      const matters = ['error', 'warning'].includes(message.type()) && !url.endsWith('/favicon.ico');
      if (matters) troubles.push(`console: ${message.text()} ${url}`);
    });
    one.on('pageerror', error => troubles.push(`error: ${error.stack}`));
    one.on('dialog', dialog => { troubles.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  };
  watch(page);
  context.on('page', watch);
  await page.goto(url);
  return {page, context, troubles, close: () => context.close()};
};

export const verdict = page => page.locator('#verdict-title').innerText();

export const verdictIs = (page, pattern) => until(`the verdict is ${pattern}`, async () => pattern.test(await verdict(page)));

/** Opens the page of a proxy with a fresh link, and waits for its first verdict. */
export const openPage = async (proxy, options) => {
  const opened = await open(await proxy.link(), options);
  await opened.page.locator('#page').waitFor();
  return opened;
};

/** What the page complained of, without what a stopped proxy makes a browser say. */
export const untroubled = (troubles, allowed = /ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED_ENCODING/) =>
  assert.deepEqual(troubles.filter(text => !allowed.test(text)), []);

/** Runs all tests, one after another, and prints the line that is summed up. */
export const run = async only => {
  let [passed, failed] = [0, 0];
  for (const {name, body} of tests.filter(({name}) => only.every(word => name.includes(word)))) {
    try {
      await body();
      passed++;
      console.log(`test ${name} ... ok`);
    } catch (error) {
      failed++;
      console.log(`test ${name} ... FAILED\n${error.stack}`);
    }
    for (const proxy of started) await proxy.end();
  }
  await browser?.close();
  console.log(`\ntest result: ${failed ? 'FAILED' : 'ok'}. ${passed} passed; ${failed} failed`);
  return failed;
};
