/** Messages between the page and its worker. */

import type { Backend } from "./core/engine";
import type { Unit } from "./core/signature";
import type { Area } from "./core/windows";
import type { Overview } from "./input/scene";
import type { Guess } from "./input/units";

export type Request =
  | { readonly kind: "model"; readonly file: Blob | null; readonly name: string; readonly base: string }
  | { readonly kind: "open"; readonly file: Blob; readonly name: string }
  | { readonly kind: "scan"; readonly band: number; readonly nodata: number | null }
  | { readonly kind: "run"; readonly unit: Unit; readonly stretch: string; readonly area: Area }
  | { readonly kind: "stop" }
  | { readonly kind: "save"; readonly format: "png" | "tif" };

export interface ModelReply {
  readonly name: string;
  readonly unit: Unit;
  readonly window: number;
  readonly backend: Backend;
  readonly signed: boolean;
}

export interface OpenReply {
  readonly name: string;
  readonly height: number;
  readonly width: number;
  readonly dtype: string;
  readonly bands: readonly { readonly index: number; readonly label: string }[];
  /** Band that is taken unless the user chooses another; null: the user must choose. */
  readonly band: number | null;
  readonly georeferenced: boolean;
}

export interface ScanReply {
  readonly overview: Overview;
  readonly guess: Guess;
  readonly suspect: number | null;
}

export type Reply =
  | { readonly kind: "progress"; readonly what: string; readonly share: number }
  | { readonly kind: "rows"; readonly start: number; readonly rgba: Uint8ClampedArray<ArrayBuffer>; readonly grey: Uint8ClampedArray<ArrayBuffer> }
  | { readonly kind: "model"; readonly model: ModelReply }
  | { readonly kind: "open"; readonly raster: OpenReply }
  | { readonly kind: "scan"; readonly scan: ScanReply }
  | { readonly kind: "run"; readonly seconds: number; readonly windows: number; readonly stopped: boolean }
  | { readonly kind: "stop" }
  | { readonly kind: "save"; readonly blob: Blob; readonly format: "png" | "tif" }
  | { readonly kind: "error"; readonly of: Request["kind"]; readonly message: string };
