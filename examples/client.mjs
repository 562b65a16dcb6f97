#!/usr/bin/env node
// All accounting entries of a company, page by page, through pleo-proxy. Needs nothing but Node.js 18 or newer.
//
// usage: client.mjs [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088

const proxy = process.env.PLEO_BASE_URL ?? 'http://127.0.0.1:8088';
const sandboxCompany = 'c0a1e5ce-0000-4000-8000-000000000001';

async function call(method, path, query = {}, body = undefined) {
  const url = new URL(path, proxy);
  url.search = new URLSearchParams(query);
  const answer = await fetch(url, {
    method,
    headers: {'content-type': 'application/json'},
    body: body === undefined ? undefined : JSON.stringify(body),
    // Longer than the proxy's own limits, so that its answer says what went wrong.
    signal: AbortSignal.timeout(150_000),
  });
  if (answer.ok) return answer.json();
  const whose = answer.headers.has('Pleo-Proxy-Error') ? 'pleo-proxy' : 'Pleo';
  throw new Error(`${whose} answered ${answer.status}: ${await answer.text()}`);
}

async function* entries(company) {
  const query = {company_id: company, limit: 20};
  for (;;) {
    const page = await call('POST', '/v1/accounting-entries:search', query, {includeDeleted: false});
    yield* page.data;
    if (!page.pagination.hasNextPage) return;
    query.after = page.pagination.endCursor;
  }
}

let count = 0;
for await (const entry of entries(process.argv[2] ?? sandboxCompany)) {
  const {minors, currency} = entry.transactionValue;
  console.log(entry.performedAt, (minors / 100).toFixed(2).padStart(10), currency, entry.note);
  count += 1;
}
console.log(`${count} entries`);
