/** Run a generator with ONNX Runtime Web: on WebGPU where its self-test passes there, else on WebAssembly. */

import type * as Ort from "onnxruntime-web";
import { readOnnx, signatureOf, type OnnxFile } from "./onnx";
import { agreement, selfTestInput } from "./selftest";
import type { ModelSignature } from "./signature";

export type Backend = "webgpu" | "wasm";
type OrtModule = typeof Ort;

export interface Engine {
  readonly signature: ModelSignature;
  readonly backend: Backend;
  /** Translate one window: Float32 (channels, window, window) to Float32 (3, window, window), both in [-1, 1]. */
  run(sar: Float32Array): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Loads ONNX Runtime for a backend; the page and the tests in Node load it from different places. */
export type Load = (backend: Backend) => Promise<OrtModule>;

/** Open a model on the first backend that runs it correctly. */
export async function openEngine(file: Uint8Array, source: string, backends: readonly Backend[], load: Load): Promise<Engine> {
  const model = readOnnx(file, source);
  const signature = signatureOf(model, source);
  let failure: unknown;
  for (const backend of backends) {
    try {
      const engine = await openOn(backend, file, model, signature, await load(backend));
      await check(engine, model, source);
      return engine;
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

async function openOn(backend: Backend, file: Uint8Array, model: OnnxFile, signature: ModelSignature, ort: OrtModule): Promise<Engine> {
  const sides = [1, signature.channels, signature.window, signature.window];
  const session = await ort.InferenceSession.create(file, {
    executionProviders: [backend],
    graphOptimizationLevel: "all",
    // With fixed sides, more operators are fused.
    freeDimensionOverrides: Object.fromEntries([...model.open].map(([index, name]) => [name, sides[index]])),
  });
  return {
    signature,
    backend,
    async run(sar) {
      const input = new ort.Tensor("float32", sar, sides);
      const output = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]];
      const image = (await output.getData()) as Float32Array;
      if (image.length !== 3 * signature.window ** 2) throw new Error("the model's output is not a picture of 3 channels");
      return image;
    },
    close: () => session.release(),
  };
}

/** Compare the engine with the file's self-test; without one, only WebAssembly is trusted. */
async function check(engine: Engine, model: OnnxFile, source: string): Promise<void> {
  const image = await engine.run(selfTestInput(engine.signature));
  const compared = agreement(image, engine.signature.window, model.metadata);
  if (!compared && engine.backend === "wasm") return;
  if (!compared || !(compared.found >= compared.least)) {
    await engine.close();
    throw new Error(`${source}: its self-test fails on ${engine.backend}: use another browser or file`);
  }
}
