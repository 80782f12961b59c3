// Runs the text of a CloudFront Function as runtime 2.0 would: a strict script, no module system but
// `require` of three modules, no Node, no timers, no network, no eval. In: {code, events}. Out: what the
// handler returned for each event, or {error}.
const vm = require('vm');

const hashes = new Set(['md5', 'sha1', 'sha256']);
const modules = {
  buffer: require('buffer'),
  querystring: require('querystring'),
  crypto: {
    createHash: (name) => only(name).createHash(name),
    createHmac: (name, key) => only(name).createHmac(name, key),
  },
};

function only(name) {
  if (!hashes.has(name)) throw new Error(`no such digest: ${name}`);
  return require('crypto');
}

function provided(name) {
  if (!Object.hasOwn(modules, name)) throw new Error(`no such module: ${name}`);
  return modules[name];
}

const { code, events } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const context = vm.createContext(
  { require: provided, console: { log() {} } },
  { codeGeneration: { strings: false, wasm: false } },
);
vm.runInContext(`'use strict';${code}`, context, { timeout: 1000 });

const answers = events.map((event) => {
  try {
    return vm.runInContext(`handler(${JSON.stringify(event)})`, context, { timeout: 1000 });
  } catch (error) {
    return { error: String(error) };
  }
});
process.stdout.write(JSON.stringify(answers));
