/** Guess a raster's unit from its type, names and values; as `sar2optical/scene/units.py`, with its patterns. */

import patterns from "../../generated/units.json";
import { percentile } from "../core/encoder";
import { UNITS, type Unit } from "../core/signature";
import type { BandTags, Raster } from "./raster";

/** Unit and reason, or a question to the user if it cannot be told. */
export type Guess = { readonly unit: Unit; readonly reason: string } | { readonly unit: null; readonly question: string };

const shown = (value: number) => Number(value.toPrecision(4)).toString();

/** Texts that may name the unit, the most reliable first. */
export function namesOf(raster: Raster, band: BandTags, dtype: string): string[] {
  const keys = ["units", "unit", "unittype", "long_name", "standard_name", `band_${band.index + 1}`];
  const all = new Map([...raster.tags, ...band.tags]);
  const tagged = [...all].filter(([key]) => keys.includes(key.toLowerCase())).map(([, value]) => value);
  if (dtype.startsWith("uint")) tagged.push(raster.tags.get("TIFFTAG_IMAGEDESCRIPTION") ?? "");
  return [band.unit, ...tagged, band.description, raster.name].filter(Boolean);
}

/** Guess the unit of a sample of valid values. Contradictions and ambiguity are a question, never a guess. */
export function guessUnit(dtype: string, names: readonly string[], sample: Float32Array): Guess {
  if (sample.length === 0) return { unit: null, question: "no pixel is valid" };
  const sorted = sample.slice().sort();
  const [lowest, median, highest] = [0, 50, 100].map((at) => percentile(sorted, at));
  const seen = `${dtype} values from ${shown(lowest)} to ${shown(highest)}, median ${shown(median)}`;
  const likeDb = lowest >= -100 && lowest < 0 && highest <= 60 && median >= -45 && median < -0.5;
  const named = namedUnit(names);
  if (named && "question" in named) return named;
  if (named) {
    const { unit, reason } = named;
    if (dtype === "uint8") return { unit: null, question: `${reason}, but ${seen} are already scaled to 8 bits` };
    if (unit === "db" && !likeDb) return { unit: null, question: `${reason}, but ${seen} are not all dB` };
    if (unit === "amplitude" && /^u?int/.test(dtype)) return { unit: "dn", reason: `${reason}, and ${dtype} is uncalibrated` };
    const brightest = { power: 10, amplitude: 3.2, dn: Infinity }[unit as string];
    if (brightest !== undefined && !(median >= 0 && median <= brightest)) {
      return { unit: null, question: `${reason}, but ${seen} are not ${unit}` };
    }
    return named;
  }
  if (dtype === "uint8") return { unit: "byte", reason: "8-bit values are grey levels" };
  if (dtype === "uint16" && highest > 255) return { unit: "dn", reason: seen };
  if (dtype.startsWith("float") && median <= -6 && likeDb) return { unit: "db", reason: seen };
  return { unit: null, question: `${seen} could be several units` };
}

function namedUnit(names: readonly string[]): Guess | null {
  for (const name of names) {
    const other = patterns.other.find(([pattern]) => new RegExp(pattern).test(name.toLowerCase()));
    if (other) return { unit: null, question: `its name or tag is that of ${other[1]} (${name})` };
    const found = patterns.units.filter(([pattern]) => new RegExp(pattern).test(name.toLowerCase()));
    if (found.length === 0) continue;
    const chosen = found.find(([, unit]) => unit === "db") ?? found[0];
    const kinds = new Set(found.map(([, unit]) => (unit === "dn" ? "amplitude" : unit)));
    if (chosen[1] !== "db" && kinds.size > 1) {
      return { unit: null, question: `its name or tag contains ${[...kinds].sort().join(" and ")} (${name})` };
    }
    return { unit: UNITS.find((unit) => unit === chosen[1])!, reason: `${chosen[2]} (${name})` };
  }
  return null;
}

/** Check that a scene's median is possible in a unit that the user gives. */
export function refuseImpossible(unit: Unit, sample: Float32Array, dtype: string): void {
  if (sample.length === 0 || dtype === "uint8") return;
  const median = percentile(sample.slice().sort(), 50);
  const [lowest, highest] = unit === "db" ? [-60, 30] : [0, Infinity];
  if (!(median >= lowest && median <= highest)) {
    throw new Error(`the median of the values is ${shown(median)}, which is not possible in ${unit}: choose another unit`);
  }
}
