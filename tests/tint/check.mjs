// Compiles WGSL with Tint, Chrome's WGSL compiler, on Dawn's null backend: no GPU and no driver needed.
//   node check.mjs FOLDER      FOLDER holds *.wgsl and manifest.json, as tests/shaders writes them to target/translated/wgsl
//   node check.mjs --self-test
// Every text becomes a module, every entry point a pipeline with every set of override constants. Exit 1 on any error.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);

// Dawn dies when an object that it still needs is collected: all are kept until the end.
const kept = [];
const keep = (object) => (kept.push(object), object);

async function open() {
  const gpu = keep(create(['backend=null']));
  const adapter = keep(await gpu.requestAdapter());
  if (!adapter) throw new Error('Dawn offers no null adapter');
  // Default limits on purpose: what every browser has.
  return keep(await adapter.requestDevice({ requiredFeatures: ['subgroups'] }));
}

// Messages of one text; an empty list when all is well.
async function check(device, item) {
  const failures = [];
  let count = 0;
  device.pushErrorScope('validation');
  const module = keep(device.createShaderModule({ code: item.code }));
  const info = await module.getCompilationInfo();
  const scope = await device.popErrorScope();
  for (const m of info.messages.filter((m) => m.type === 'error')) {
    failures.push(`${item.file}:${m.lineNum}:${m.linePos}: ${m.message}`);
  }
  if (scope && failures.length === 0) failures.push(`${item.file}: ${scope.message}`);
  if (failures.length > 0) return { failures, count };
  for (const entryPoint of item.entries) {
    for (const constants of item.constants) {
      const used = Object.keys(constants).length ? ` with ${JSON.stringify(constants)}` : '';
      device.pushErrorScope('validation');
      keep(device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint, constants } }));
      const error = await device.popErrorScope();
      if (error) failures.push(`${item.file}: ${entryPoint}${used}: ${error.message}`);
      count += 1;
    }
  }
  return { failures, count };
}

// A check that cannot fail is a defect: these must be refused, the last must pass.
async function selfTest(device) {
  const text = (code, extra = {}) => ({ file: 'self-test', entries: ['main'], constants: [{}], code, ...extra });
  const barrier = (condition) => `var<workgroup> w: u32;
    @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) { if ${condition} { workgroupBarrier(); } w = i; }`;
  const group = (size) => `override N = 64u; @compute @workgroup_size(N) fn main() {} const size = ${size};`;
  const cases = [
    ['a type error', text('@compute @workgroup_size(1) fn main() { let x: u32 = 1.5; }'), true],
    ['a barrier in divergent flow', text(barrier('i < 4u')), true],
    ['an override that makes the workgroup too large', text(group(1), { constants: [{ N: 512 }] }), true],
    ['an unknown entry point', text(group(1), { entries: ['other'] }), true],
    ['a correct text', text(barrier('true')), false],
  ];
  for (const [name, item, mustFail] of cases) {
    const { failures } = await check(device, item);
    if (failures.length > 0 !== mustFail) {
      throw new Error(`self-test: ${name} ${mustFail ? 'was accepted' : `was refused: ${failures.join('; ')}`}`);
    }
  }
  console.log(`tint: self-test: ${cases.length} texts classified correctly`);
}

async function main() {
  const device = await open();
  await selfTest(device);
  const folder = process.argv[2];
  if (folder !== '--self-test') {
    const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
    const failures = [];
    let [texts, pipelines] = [0, 0];
    for (const item of manifest) {
      const result = await check(device, { ...item, code: readFileSync(join(folder, item.file), 'utf8') });
      failures.push(...result.failures);
      texts += 1;
      pipelines += result.count;
    }
    for (const failure of failures) console.error(failure);
    console.log(`tint: ${texts} texts, ${pipelines} pipelines, ${failures.length} failures`);
    if (failures.length > 0 || texts === 0) process.exitCode = 1;
  }
  device.destroy();
}

await main().catch((error) => {
  console.error(`tint: ${error.message}`);
  process.exitCode = 1;
});
process.exit();
