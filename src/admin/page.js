'use strict';
const byId = id => document.getElementById(id);
const cell = (row, text, kind) => {
  const td = row.insertCell();
  td.textContent = text ?? '';
  if (kind) td.className = kind;
  return td;
};
const show = status => {
  const body = byId('accounts').tBodies[0];
  body.replaceChildren();
  for (const account of status.accounts) {
    const row = body.insertRow();
    cell(row, account.account);
    cell(row, account.why ? `${account.state}: ${account.why}` : account.state,
      account.state === 'connected' ? 'connected' : 'trouble');
    cell(row, account.subject);
    cell(row, account.access_expires_at);
    cell(row, account.refreshed_at);
    const link = document.createElement('a');
    link.href = '/connect?account=' + encodeURIComponent(account.account);
    link.textContent = account.state === 'connected' ? 'log in again' : 'connect';
    cell(row).append(link);
  }
  byId('accounts').hidden = false;
  byId('closed').hidden = true;
};
const load = async () => {
  const response = await fetch('/api/status');
  if (response.ok) show(await response.json());
};
const start = async () => {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (key) {
    history.replaceState(null, '', '/');
    const response = await fetch('/api/session', {
      method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({key}),
    });
    if (!response.ok) byId('problem').textContent = 'This link was used already or has expired. Run: pleo-proxy open';
  }
  await load();
  setInterval(load, 5000);
};
start();
