/** Golden files, written by golden/make.py. */

import { readFileSync } from "node:fs";

const folder = new URL("../../golden/out/", import.meta.url);

export const bytesOf = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(new URL(name, folder)));
export const golden = JSON.parse(readFileSync(new URL("golden.json", folder), "utf8"));
/** Numbers of a flat list, in which infinite and missing values are text. */
export const floats = (list: (number | string)[]): Float32Array => Float32Array.from(list, (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : Number(v)));

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let at = 0; at < a.length; at++) largest = Math.max(largest, Math.abs(a[at] - b[at]));
  return largest;
}

/** Node has no FileReader, by which geotiff.js reads a file. */
class NodeFileReader {
  result: ArrayBuffer | null = null;
  onload: (() => void) | null = null;
  onerror: ((error: unknown) => void) | null = null;

  readAsArrayBuffer(blob: Blob): void {
    blob.arrayBuffer().then((buffer) => {
      this.result = buffer;
      this.onload?.();
    }, this.onerror);
  }
}
Object.assign(globalThis, { FileReader: NodeFileReader });
