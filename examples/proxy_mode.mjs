#!/usr/bin/env node
// Node's own proxy setting (22.21 or 24.5 and newer): the program keeps the API's host name, with http:// instead of
// https://, and Node asks pleo-proxy for it.
//
// usage: NODE_USE_ENV_PROXY=1 HTTP_PROXY=http://127.0.0.1:8088 proxy_mode.mjs [ORIGIN]

const origin = process.argv[2] ?? 'http://external.staging.pleo.io';
const answer = await fetch(`${origin}/v1/introspect`, {signal: AbortSignal.timeout(150_000)});
console.log(await answer.text());
if (!answer.ok) process.exitCode = 1;
