// Runs the tests of the page: node run.mjs [WORD...] runs those whose names have all the words.
// PLEO_PROXY_PROGRAM is the program to test; tests/heavy/browser.sh builds and names it.

import {run} from './harness.mjs';
import './accessible.mjs';
import './attack.mjs';
import './current.mjs';
import './journey.mjs';
import './load.mjs';
import './states.mjs';

process.exit(await run(process.argv.slice(2)) ? 1 : 0);
