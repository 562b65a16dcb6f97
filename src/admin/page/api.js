// Calls of the admin listener, all of the same origin, and its event stream.

/** What the listener refused, in its own words. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail || problem?.account?.why || `the proxy answered ${status}`);
    this.status = status;
    this.code = problem?.code ?? '';
  }
}

/** Fetches, and throws a `Refusal` for everything but success. */
export const call = async (path, {method = 'GET', body, signal} = {}) => {
  const options = {method, signal, cache: 'no-store', redirect: 'error'};
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = {'content-type': 'application/json'};
  }
  const response = await fetch(path, options);
  if (response.ok) return response;
  throw new Refusal(response.status, await response.json().catch(() => null));
};

export const json = async (path, options) => (await call(path, options)).json();

export const post = (path, body) => json(path, {method: 'POST', body});

/** The events of a stream, as they come: `heard` for every piece, `event(name, data)` for each one whole. */
export const listen = async (response, heard, event) => {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      let name = 'message';
      const data = [];
      for (const line of block.split('\n')) {
        if (line.startsWith('event:')) name = line.slice(6).trim();
        else if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
      }
      if (data.length) event(name, JSON.parse(data.join('\n')));
    }
  }
};
