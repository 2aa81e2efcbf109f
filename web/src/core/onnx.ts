/** Read metadata and input shape of an ONNX file: a small reader of the protobuf fields that are needed. */

import { METADATA_KEY, signatureFromJson, signatureOfChips, type ModelSignature } from "./signature";

/** Field numbers of onnx.proto3. */
const MODEL = { graph: 7, metadata: 14 };
const GRAPH = { initializer: 5, input: 11 };
const INITIALIZER_NAME = 8;

interface Field {
  readonly number: number;
  readonly varint: number;
  readonly bytes: Uint8Array;
}

const NONE = new Uint8Array(0);

function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new Error("ends early");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    const kind = key % 8;
    let value = 0;
    let length = 0;
    if (kind === 0) value = varint();
    else if (kind === 1) length = 8;
    else if (kind === 2) length = varint();
    else if (kind === 5) length = 4;
    else throw new Error(`has a field of type ${kind}`);
    if (at + length > bytes.length) throw new Error("ends early");
    yield { number, varint: value, bytes: length ? bytes.subarray(at, at + length) : NONE };
    at += length;
  }
}

const one = (bytes: Uint8Array, number: number): Field | undefined => {
  for (const field of fields(bytes)) if (field.number === number) return field;
  return undefined;
};

const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes ?? NONE);

export interface OnnxFile {
  readonly metadata: ReadonlyMap<string, string>;
  /** Name of the first input. */
  readonly input: string;
  /** Sides of the first input; 0 where one is open. */
  readonly shape: readonly number[];
  /** Names of open sides, by index. */
  readonly open: ReadonlyMap<number, string>;
}

export function readOnnx(file: Uint8Array, source: string): OnnxFile {
  const metadata = new Map<string, string>();
  const inputs: Uint8Array[] = [];
  const weights = new Set<string>();
  try {
    for (const field of fields(file)) {
      if (field.number === MODEL.metadata) metadata.set(text(one(field.bytes, 1)?.bytes), text(one(field.bytes, 2)?.bytes));
      if (field.number !== MODEL.graph) continue;
      for (const part of fields(field.bytes)) {
        if (part.number === GRAPH.input) inputs.push(part.bytes);
        if (part.number === GRAPH.initializer) weights.add(text(one(part.bytes, INITIALIZER_NAME)?.bytes));
      }
    }
    // Older exporters list weights among the inputs.
    const input = inputs.find((bytes) => !weights.has(text(one(bytes, 1)?.bytes)));
    if (!input) throw new Error("has no input");
    const shape: number[] = [];
    const open = new Map<number, string>();
    const tensor = one(one(input, 2)?.bytes ?? NONE, 1)?.bytes ?? NONE;
    for (const side of fields(one(tensor, 2)?.bytes ?? NONE)) {
      const name = one(side.bytes, 2)?.bytes;
      if (name) open.set(shape.length, text(name));
      shape.push(one(side.bytes, 1)?.varint ?? 0);
    }
    return { metadata, input: text(one(input, 1)?.bytes), shape, open };
  } catch (error) {
    throw new Error(`${source}: is not an ONNX model (${(error as Error).message}): give an .onnx file`);
  }
}

/** Signature of a model: its own, or that of a published generator, whose window and channels are fixed. */
export function signatureOf(model: OnnxFile, source: string): ModelSignature {
  const json = model.metadata.get(METADATA_KEY);
  if (json !== undefined) return signatureFromJson(json, source);
  const [, channels, height, width] = model.shape;
  if (model.shape.length !== 4 || !channels || !height || height !== width) {
    throw new Error(
      `${source}: has no signature, and its input is ${model.shape.join(" x ") || "unknown"}: ` +
        "export it with sar2opt-export",
    );
  }
  return signatureOfChips(source, channels, height);
}
