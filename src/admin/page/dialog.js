// Questions, in the one dialog of the page.

import {byId, h} from './dom.js';

/**
 * Asks; resolves to true if the person agrees. `body` are elements or texts; with `sure` the
 * agreeing button looks dangerous.
 */
export const ask = ({title, body, agree, sure = false}) => new Promise(done => {
  const dialog = byId('dialog');
  const end = value => () => { dialog.returnValue = value; dialog.close(value); };
  dialog.replaceChildren(
    h('h2', {id: 'dialog-title'}, title),
    ...body.map(part => (typeof part === 'string' ? h('p', {}, part) : part)),
    h('div', {class: 'do'},
      h('button', {type: 'button', onclick: end('no'), autofocus: true}, 'Cancel'),
      h('button', {type: 'button', class: sure ? 'danger' : 'primary', onclick: end('yes')}, agree)),
  );
  dialog.returnValue = 'no';
  dialog.addEventListener('close', () => done(dialog.returnValue === 'yes'), {once: true});
  dialog.showModal();
});
