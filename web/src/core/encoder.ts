/** Scale SAR values to model input, and model output to bytes; as `sar2optical/scene/encoder.py`. */

import { invariantToGain, textOfBound, type Bound, type ModelSignature, type Stretch, type Unit } from "./signature";

const POWER_OF: Partial<Record<Unit, number>> = { dn: 2, amplitude: 2, power: 1 };

/**
 * Convert between units: power = amplitude ** 2 = 10 ** (dB / 10). `dn` counts as amplitude.
 * Returns a function of one value; results are rounded to float32 where they are stored.
 */
export function converter(source: Unit, target: Unit): (value: number) => number {
  const same = source === target || (source === "dn" && target === "amplitude") || (source === "amplitude" && target === "dn");
  if (same) return (value) => value;
  if (source === "byte" || target === "byte") {
    throw new Error(
      `values are ${source} and cannot be converted to ${target}, which the model expects: ` +
        "give a stretch in the scene's unit",
    );
  }
  if (target === "db") {
    const scale = 10 * POWER_OF[source]!;
    return (value) => scale * Math.log10(Math.max(value, 0));
  }
  if (source === "db") {
    const divisor = 10 * POWER_OF[target]!;
    return (value) => 10 ** Math.min(value / divisor, 38);
  }
  if (target === "power") return (value) => Math.max(value, 0) ** 2;
  return (value) => Math.sqrt(Math.max(value, 0));
}

export function convert(values: Float32Array, source: Unit, target: Unit): Float32Array {
  return values.map(converter(source, target));
}

/** Conversion of a band to model input; one for the whole scene, so that all windows agree. */
export interface Encoding {
  readonly source: Unit;
  readonly target: Unit;
  /** Value in `target` that becomes -1. */
  readonly low: number;
  /** Value in `target` that becomes 1. */
  readonly high: number;
}

/** Encoding of values that are already scaled to 8 bits: 0 becomes -1, 255 becomes 1. */
export const AS_IT_IS: Encoding = { source: "byte", target: "byte", low: 0, high: 255 };

/** Return a function that stretches one value to [-1, 1] and clips it, in float32 as NumPy does. */
export function encoder(encoding: Encoding): (value: number) => number {
  const convertOne = converter(encoding.source, encoding.target);
  const { fround, min, max } = Math;
  const low = fround(encoding.low);
  const factor = fround(2 / (encoding.high - encoding.low));
  return (value) => {
    const stretched = fround(fround(fround(fround(convertOne(value)) - low) * factor) - 1);
    return max(-1, min(1, stretched));
  };
}

/** Choose the unit in which values are stretched, and the stretch. */
export function chooseStretch(source: Unit, signature: ModelSignature, stretch: Stretch | null): [Unit, Stretch] {
  const bytes: Stretch = { low: { at: 0, percentile: false }, high: { at: 255, percentile: false } };
  if (source === "byte") return ["byte", stretch ?? bytes];
  if (signature.unit === "byte") {
    if (!stretch) {
      throw new Error(`values are ${source}, the model expects values already scaled to 8 bits: give a stretch, such as p1 p99`);
    }
    return [source, stretch];
  }
  if (stretch && signature.unit !== "db" && (stretch.low.at < 0 || stretch.high.at < 0)) {
    throw new Error(`the stretch has a negative bound, but the model expects ${signature.unit}: give bounds of 0 or more`);
  }
  const chosen = stretch ?? signature.stretch[0];
  const fixed = !stretch && !invariantToGain(chosen, signature.unit);
  const calibrated = (unit: Unit) => (unit === "dn" ? "uncalibrated DN" : `calibrated ${unit}`);
  if (fixed && (source === "dn") !== (signature.unit === "dn")) {
    throw new Error(
      `values are ${calibrated(source)}, the model expects ${calibrated(signature.unit)}, stretched from ` +
        `${textOfBound(chosen.low)} to ${textOfBound(chosen.high)}: give a stretch, such as p1 p99`,
    );
  }
  return [signature.unit, chosen];
}

/** Choose the encoding of a scene from its sample (valid values in `unit`). */
export function encodingFor(
  unit: Unit,
  sample: Float32Array,
  signature: ModelSignature,
  stretch: Stretch | null = null,
): Encoding {
  if (sample.length === 0) return AS_IT_IS; // no pixel will be encoded
  const [target, chosen] = chooseStretch(unit, signature, stretch);
  const finite = convert(sample, unit, target).filter(Number.isFinite).sort();
  const value = (bound: Bound) => (bound.percentile ? percentile(finite, bound.at) : bound.at);
  const low = value(chosen.low);
  const high = value(chosen.high);
  if (low > high) {
    throw new Error(`the stretch gives ${low} to ${high} on this scene, but low must be below high: give p1 p99`);
  }
  return { source: unit, target, low, high: Math.max(high, low + Math.max(Math.abs(low) * 1e-6, 1e-12)) };
}

/** Percentile of sorted values, interpolated linearly (NumPy's default); 0 where there are none. */
export function percentile(sorted: ArrayLike<number>, at: number): number {
  if (sorted.length === 0) return 0;
  const place = (at / 100) * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** Convert a value of the model's output to a byte: clip to [-1, 1], (y + 1) / 2 * 255, rounded. */
export function decode(value: number): number {
  const scaled = Math.fround(Math.fround(Math.fround(value) * 127.5) + 128);
  return Math.floor(Math.max(0, Math.min(255, scaled)));
}
