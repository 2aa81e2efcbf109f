/** Signature of a generator: its input bands, unit and stretch; the JSON of `sar2optical/signature.py`. */

export const UNITS = ["dn", "amplitude", "power", "db", "byte"] as const;
export type Unit = (typeof UNITS)[number];

/** Key of the JSON in ONNX `metadata_props`. */
export const METADATA_KEY = "sar2optical.signature";
const VERSION = 1;

/** One end of a stretch: a value in the model's unit, or a percentile of the scene's valid pixels. */
export interface Bound {
  readonly at: number;
  readonly percentile: boolean;
}

/** Stretch of values to [-1, 1]; values beyond it are clipped. */
export interface Stretch {
  readonly low: Bound;
  readonly high: Bound;
}

export interface ModelSignature {
  readonly name: string;
  readonly bands: readonly string[];
  readonly unit: Unit;
  readonly stretch: readonly Stretch[];
  /** Height and width of the input, in pixels. */
  readonly window: number;
  readonly channels: number;
}

export function parseBound(text: string): Bound {
  const trimmed = text.trim();
  const percentile = /^p/i.test(trimmed);
  const digits = percentile ? trimmed.slice(1) : trimmed;
  const at = digits === "" ? NaN : Number(digits);
  if (!Number.isFinite(at)) throw new Error(`"${text}" is not a bound: give a number (-25) or a percentile (p99)`);
  if (percentile && (at < 0 || at > 100)) throw new Error(`percentile ${at} is outside 0 to 100: give 0 to 100`);
  return { at, percentile };
}

export function parseStretch(low: string, high: string): Stretch {
  const stretch = { low: parseBound(low), high: parseBound(high) };
  if (stretch.low.percentile === stretch.high.percentile && stretch.low.at >= stretch.high.at) {
    throw new Error(`stretch ${low} to ${high}: the low end must be below the high end`);
  }
  return stretch;
}

/** Read a stretch that a user typed, such as "p1 p99" or "-25 0"; null for an empty text. */
export function typedStretch(text: string): Stretch | null {
  const words = text.trim().split(/\s+/).filter(Boolean);
  if (words.length === 0) return null;
  if (words.length !== 2) throw new Error(`"${text}" is not a stretch: give two bounds, such as p1 p99`);
  return parseStretch(words[0], words[1]);
}

export function textOfBound(bound: Bound): string {
  return `${bound.percentile ? "p" : ""}${bound.at}`;
}

/** Whether the stretched image stays the same when all power is multiplied by one factor. */
export function invariantToGain(stretch: Stretch, unit: Unit): boolean {
  const zeroStays = unit === "dn" || unit === "amplitude" || unit === "power";
  return [stretch.low, stretch.high].every((bound) => bound.percentile || (zeroStays && bound.at === 0));
}

/** Read the JSON form; other versions and models of several bands are an error. */
export function signatureFromJson(text: string, source: string): ModelSignature {
  let record: Record<string, unknown>;
  try {
    record = JSON.parse(text);
  } catch {
    throw new Error(`${source}: its signature is not readable: export it again`);
  }
  if (record.version !== VERSION) {
    throw new Error(`${source}: signature version ${record.version}, but this page reads ${VERSION}: export it again`);
  }
  const signature: ModelSignature = {
    name: String(record.name),
    bands: (record.bands as unknown[]).map(String),
    unit: record.unit as Unit,
    stretch: (record.stretch as [string, string][]).map(([low, high]) => parseStretch(String(low), String(high))),
    window: Number(record.window),
    channels: Number(record.channels),
  };
  if (!UNITS.includes(signature.unit) || !(signature.window >= 1) || !(signature.channels >= 1)) {
    throw new Error(`${source}: malformed signature: export it again`);
  }
  if (signature.bands.length !== 1) {
    throw new Error(`${source}: takes ${signature.bands.length} bands, this page gives one: use sar2opt-scene`);
  }
  return signature;
}

/** Signature of a published generator without one: bytes, as the reference's chips. */
export function signatureOfChips(name: string, channels: number, window: number): ModelSignature {
  const stretch = [parseStretch("0", "255")];
  return { name, bands: ["VV|VH"], unit: "byte", stretch, window, channels };
}
