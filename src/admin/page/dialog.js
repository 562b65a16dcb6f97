// Questions, in the one dialog of the page.

import {byId, h} from './dom.js';

/**
 * Asks; resolves to true if the person agrees. `body` are elements or texts; with `sure` the
 * agreeing button looks dangerous.
 */
export const ask = ({title, body, agree, sure = false}) => new Promise(done => {
  const dialog = byId('dialog');
  const end = answer => {
    dialog.removeEventListener('cancel', cancelled);
    dialog.removeEventListener('close', closed);
    dialog.close();
    done(answer);
  };
  const cancelled = () => end(false);
  // The event comes late: it may be of the question before, which a quick person has closed.
  const closed = () => { if (!dialog.open) end(false); };
  dialog.replaceChildren(
    h('h2', {id: 'dialog-title'}, title),
    ...body.map(part => (typeof part === 'string' ? h('p', {}, part) : part)),
    h('div', {class: 'do'},
      h('button', {type: 'button', onclick: () => end(false), autofocus: true}, 'Cancel'),
      h('button', {type: 'button', class: sure ? 'danger' : 'primary', onclick: () => end(true)}, agree)),
  );
  dialog.addEventListener('cancel', cancelled);
  dialog.addEventListener('close', closed);
  dialog.showModal();
});
