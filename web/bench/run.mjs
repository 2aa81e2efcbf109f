/**
 * Compare ONNX Runtime Web (WebAssembly, one thread) with ONNX Runtime in Python (one thread), in turn.
 *
 * PYTHON names an interpreter that has sar2optical (default: ../.venv/bin/python).
 */

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { createInterface } from "node:readline";
import * as ort from "onnxruntime-web/wasm";

const ROUNDS = 9;
const WINDOWS = 10;
const here = new URL("../", import.meta.url);
const path = (name) => new URL(name, here).pathname;

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(path("public/generator.onnx")), {
  executionProviders: ["wasm"],
  graphOptimizationLevel: "all",
  freeDimensionOverrides: { N: 1, H: 256, W: 256 },
});
const sar = new ort.Tensor("float32", Float32Array.from({ length: 256 * 256 }, () => 2 * Math.random() - 1), [1, 1, 256, 256]);
await session.run({ sar });

const python = spawn(process.env.PYTHON ?? path("../.venv/bin/python"), [path("bench/engine.py")], {
  env: { ...process.env, PYTHONPATH: path("..") },
  stdio: ["pipe", "pipe", "inherit"],
});
const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
await lines.next();

async function inPython() {
  python.stdin.write(`${WINDOWS}\n`);
  return WINDOWS / Number((await lines.next()).value);
}

async function inWasm() {
  const started = performance.now();
  for (let window = 0; window < WINDOWS; window++) await session.run({ sar });
  return (1000 * WINDOWS) / (performance.now() - started);
}

const rounds = [];
for (let round = 0; round < ROUNDS; round++) {
  const first = round % 2 ? await inPython() : null;
  const wasm = await inWasm();
  const native = first ?? (await inPython());
  rounds.push({ wasm, native, ratio: wasm / native });
}
python.stdin.end();

const median = (key) => rounds.map((round) => round[key]).sort((a, b) => a - b)[Math.floor(ROUNDS / 2)];
const ratios = rounds.map(({ ratio }) => ratio);
console.log(`${cpus()[0].model}, one thread, ${ROUNDS} rounds of ${WINDOWS} windows in turn`);
console.log(`ONNX Runtime Web (WebAssembly): ${median("wasm").toFixed(1)} windows/s`);
console.log(`ONNX Runtime (Python):          ${median("native").toFixed(1)} windows/s`);
console.log(`ratio: ${median("ratio").toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`);
