import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { encode } from "fast-png";
import { openEngine, type Engine } from "../../src/core/engine";
import type { Unit } from "../../src/core/signature";
import { translate } from "../../src/core/translate";
import type { Area } from "../../src/core/windows";
import { openRaster } from "../../src/input/open";
import { bandsOf, covered, gridStep } from "../../src/input/sampling";
import { Scene } from "../../src/input/scene";
import { parseMetadata, preferredBand } from "../../src/input/tags";
import { guessUnit, refuseImpossible } from "../../src/input/units";
import { shifted, writeGeoTiff } from "../../src/output/geotiff";
import { bytesOf, floats, golden } from "./golden";

const open = (name: string) => openRaster(new Blob([bytesOf(name)]), name);

describe("units", () => {
  test.each(golden.units as any[])("$dtype $names is $unit, as in Python", ({ dtype, names, sample, unit }) => {
    expect(guessUnit(dtype, names, floats(sample)).unit).toBe(unit);
  });

  test("a unit that the values cannot have is refused", () => {
    expect(() => refuseImpossible("power", Float32Array.of(-12, -11, -10), "float32")).toThrow("not possible in power");
    refuseImpossible("db", Float32Array.of(-12, -11, -10), "float32");
  });
});

describe("files", () => {
  test("bands are found by their names, the model's preferred one first", async () => {
    const raster = await open("decibels.tif");
    expect(raster.bands.map(({ description }) => description)).toEqual(["HV_dB", "VV_dB"]);
    expect(preferredBand(raster.bands, ["VV", "VH"])).toBe(1);
    expect(preferredBand(raster.bands, ["VH"])).toBeNull();
  });

  test("what is no SAR raster is refused by name", async () => {
    const zip = new Blob([Uint8Array.of(0x50, 0x4b, 3, 4)]);
    await expect(openRaster(zip, "x.SAFE.zip")).rejects.toThrow("sar2opt-scene");
    const colour = encode({ width: 2, height: 1, channels: 3, data: Uint8Array.of(1, 1, 1, 9, 8, 7) });
    await expect(openRaster(new Blob([colour as Uint8Array<ArrayBuffer>]), "x.png")).rejects.toThrow("colour picture");
  });

  test("metadata of GDAL keep text, scale and offset of each band", () => {
    const xml = '<GDALMetadata><Item name="A">x &amp; y</Item><Item name="OFFSET" sample="1" role="offset">3</Item></GDALMetadata>';
    const metadata = parseMetadata(xml);
    expect(metadata.file.get("A")).toBe("x & y");
    expect(metadata.band(1)).toMatchObject({ offset: 3, scale: 1 });
  });
});

test("a file that ends early is an error", async () => {
  const cut = new Blob([bytesOf("simulated.tif").slice(0, 300_000)]);
  await expect(openRaster(cut, "cut.tif").then((raster) => Scene.scan(raster, 0, null))).rejects.toThrow("cut.tif: cannot be read");
});

describe("sampling", () => {
  test("the sample of a whole scene is Python's", async () => {
    const scene = await Scene.scan(await open("simulated.tif"), 0, null);
    const { size, sum } = JSON.parse(new TextDecoder().decode(bytesOf("sample.json")));
    expect(scene.sample("dn").length).toBe(size);
    expect(scene.sample("dn").reduce((total, value) => total + value, 0)).toBe(sum);
  });

  test("half of a large scene's blocks is sampled, with an odd step", () => {
    const bands = bandsOf(16700, 25000, [1, 25000]);
    expect(covered(bands) / (16700 * 25000)).toBeCloseTo(0.5, 1);
    expect(gridStep(covered(bands))).toBe(9);
    expect(covered(bandsOf(600, 700, [1, 700]))).toBe(600 * 700);
  });

  test("undeclared nodata is reported", async () => {
    const raster = await open("simulated.tif");
    const read = raster.readStored;
    const spoilt = { ...raster, readStored: async (...given: Parameters<typeof read>) => {
      const { values, mask } = await read(...given);
      return { values: Array.from(values, (value, at) => (at < 9 ? 65535 : value)), mask };
    } };
    expect((await Scene.scan(spoilt, 0, null)).suspect).toBe(65535);
    expect((await Scene.scan(spoilt, 0, 65535)).suspect).toBeNull();
  });
});

describe("mosaics", () => {
  let engine: Engine;
  beforeAll(async () => {
    const dist = dirname(createRequire(import.meta.url).resolve("onnxruntime-web/wasm"));
    const ort = await import(pathToFileURL(join(dist, "ort.wasm.min.mjs")).href);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = pathToFileURL(`${dist}/`).href;
    const bundled = new Uint8Array(readFileSync(new URL("../../public/generator.onnx", import.meta.url)));
    engine = await openEngine(bundled, "generator.onnx", ["wasm"], async () => ort);
  });

  async function mosaicOf(name: string, band: number, unit: Unit, part?: Area) {
    const raster = await open(name);
    const scene = await Scene.scan(raster, band, null);
    const area = part ?? { rows: [0, raster.height], cols: [0, raster.width] };
    const columns = area.cols[1] - area.cols[0];
    const rgba = new Uint8ClampedArray(4 * (area.rows[1] - area.rows[0]) * columns);
    const onRows = (rows: { start: number; rgba: Uint8ClampedArray }) => rgba.set(rows.rgba, 4 * rows.start * columns);
    await translate({ scene, engine, unit, stretch: null, area, onProgress: () => {}, onRows });
    return { raster, rgba, area };
  }

  /** Largest difference in levels, and the number of pixels of which only one is valid. */
  function compared(rgba: ArrayLike<number>, area: Area, expected: Uint8Array, width: number) {
    const result = { levels: 0, validity: 0, valid: 0 };
    const columns = area.cols[1] - area.cols[0];
    for (let at = 0; at < rgba.length / 4; at++) {
      const there = (area.rows[0] + Math.floor(at / columns)) * width + area.cols[0] + (at % columns);
      result.validity += rgba[4 * at + 3] === expected[4 * there + 3] ? 0 : 1;
      result.valid += rgba[4 * at + 3] ? 1 : 0;
      for (let k = 0; k < 3; k++) result.levels = Math.max(result.levels, Math.abs(rgba[4 * at + k] - expected[4 * there + k]));
    }
    return result;
  }

  const [top, bottom, left, right] = golden.box;
  test.each([
    ["simulated.tif", 0, "dn", undefined],
    ["simulated.tif", 0, "dn", { rows: [top, bottom], cols: [left, right] }],
    ["decibels.tif", 1, "db", undefined],
    ["undeclared.tif", 0, "power", undefined],
    ["packed.tif", 0, "db", undefined],
    ["chip.png", 0, "byte", undefined],
  ] as [string, number, Unit, Area | undefined][])("%s, band %i in %s, has the pixels of sar2opt-scene", async (name, band, unit, part) => {
    const { raster, rgba, area } = await mosaicOf(name, band, unit, part);
    const found = compared(rgba, area, bytesOf(`${name.split(".")[0]}.rgba`), raster.width);
    expect(found.levels).toBeLessThanOrEqual(1);
    expect(found.validity).toBe(0);
    expect(found.valid).toBeGreaterThan(1000);
  });

  test("a mosaic that is saved as GeoTIFF reads back, with its mask and shifted georeference", async () => {
    const { raster, rgba, area } = await mosaicOf("simulated.tif", 0, "dn", { rows: [0, 40], cols: [0, 90] });
    const saved = await writeGeoTiff(rgba, 40, 90, shifted(raster.georeference!, 100, 50), "test");
    const again = await openRasterOfColour(saved);
    for (let at = 0; at < 40 * 90; at++) expect(again.values[at]).toBe(rgba[4 * at + 1]);
    expect(Array.from(again.mask!).filter(Boolean).length).toBe(rgba.filter((value, at) => at % 4 === 3 && value).length);
    const [x, y] = raster.georeference!.tiePoints!.slice(3);
    const scale = raster.georeference!.pixelScale!;
    expect(again.tiePoints!.slice(3, 5)).toEqual([x + 50 * scale[0], y - 100 * scale[1]]);
    expect(area.rows).toEqual([0, 40]);
  });
});

/** Read the green band and the mask of a GeoTIFF. */
async function openRasterOfColour(file: Blob) {
  const { fromBlob } = await import("geotiff");
  const tiff = await fromBlob(file);
  const [picture, mask] = [await tiff.getImage(0), await tiff.getImage(1)];
  const values = (await picture.readRasters({ samples: [1], interleave: false }))[0] as ArrayLike<number>;
  const inside = (await mask.readRasters({ samples: [0], interleave: false }))[0] as ArrayLike<number>;
  const tiePoints = Array.from((await picture.fileDirectory.loadValue("ModelTiepoint" as never)) as ArrayLike<number>);
  return { values, mask: inside, tiePoints };
}
