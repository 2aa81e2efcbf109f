/** Read blocks of a cloud-optimized GeoTIFF of bytes by range requests: RGB, with opacity from its mask. */

import { addDecoder, BaseDecoder, fromUrl, getDecoder, type GeoTIFFImage } from "geotiff";
import type { Size } from "./data";

const MASK = 4;
const RGB = 2;
const JPEG = 7;
/** Options of geotiff.js that its types lack. */
const BLOCKED: object = { blockSize: 65536, cacheSize: 400 };
const DEFLATE = [8, 32946];

/** The browser's own zlib: it runs beside the page's thread. */
class NativeDeflate extends BaseDecoder {
  async decodeBlock(buffer: ArrayBufferLike): Promise<ArrayBuffer> {
    const stream = new Blob([buffer as ArrayBuffer]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }
}
addDecoder(DEFLATE, async () => NativeDeflate);

interface Level {
  image: GeoTIFFImage;
  mask: GeoTIFFImage | null;
  width: number;
  height: number;
}

export class Cog {
  private constructor(
    /** Levels by their index in the page's levels, the finest first. */
    private readonly levels: Map<number, Level>,
    readonly block: number,
  ) {}

  /** Open the file's directory, and match its images to the page's levels. */
  static async open(address: string, shapes: readonly Size[]): Promise<Cog> {
    // Absolute: geotiff.js takes no relative address. Small reads of directories are joined into one request.
    const tiff = await fromUrl(new URL(address, document.baseURI).href, BLOCKED);
    const images: GeoTIFFImage[] = [];
    const masks: GeoTIFFImage[] = [];
    for (let index = 0; index < (await tiff.getImageCount()); index++) {
      const image = await tiff.getImage(index);
      const kind = Number(image.fileDirectory.getValue("NewSubfileType") ?? 0);
      (kind & MASK ? masks : images).push(image);
    }
    // GDAL rounds the sides of overviews down, the page's levels are rounded up.
    const near = (side: number, level: number) => side - level <= 0 && level - side <= 1;
    const same = (image: GeoTIFFImage, [height, width]: Size) => near(image.getWidth(), width) && near(image.getHeight(), height);
    const levels = new Map<number, Level>();
    shapes.forEach((shape, index) => {
      const image = images.find((one) => same(one, shape));
      const mask = masks.find((one) => same(one, shape)) ?? null;
      if (image && (index === 0 || image.isTiled)) levels.set(index, { image, mask, width: image.getWidth(), height: image.getHeight() });
    });
    const [first] = images;
    const block = first.isTiled ? first.getTileWidth() : 256;
    for (const [index, { image }] of levels) if (image.isTiled && image.getTileWidth() !== block) levels.delete(index);
    return new Cog(levels, block);
  }

  /** Coarsest level of the file. */
  get last(): number {
    let last = 0;
    while (this.levels.has(last + 1)) last++;
    return last;
  }

  /** Read a block as a picture; transparent where invalid, and beyond the last row and column. */
  async read(level: number, x: number, y: number): Promise<ImageBitmap> {
    const found = this.levels.get(level);
    if (!found) throw new Error(`the file has no level ${level}`);
    const side = this.block;
    const [left, top] = [x * side, y * side];
    const [width, height] = [Math.min(side, found.width - left), Math.min(side, found.height - top)];
    const rgba = new Uint8ClampedArray(side * side * 4);
    const colours = await blockOf(found.image, x, y, [left, top, left + width, top + height], side);
    const valid = found.mask ? await maskOf(found.mask, x, y, [left, top, left + width, top + height], side) : null;
    for (let row = 0; row < height; row++) {
      let to = row * side * 4;
      let from = row * colours.stride * 3;
      for (let col = 0; col < width; col++, to += 4, from += 3) {
        rgba[to] = colours.bytes[from];
        rgba[to + 1] = colours.bytes[from + 1];
        rgba[to + 2] = colours.bytes[from + 2];
        rgba[to + 3] = valid && !valid(row, col) ? 0 : 255;
      }
    }
    return createImageBitmap(new ImageData(rgba, side, side));
  }
}

type Box = [number, number, number, number];

/** Bytes of a block, red, green and blue in turn; decoded as stored where that is RGB, which skips a slow copy. */
async function blockOf(image: GeoTIFFImage, x: number, y: number, box: Box, side: number) {
  const value = (name: "PhotometricInterpretation" | "Compression") => Number(image.fileDirectory.getValue(name));
  const plain = value("PhotometricInterpretation") === RGB && value("Compression") !== JPEG;
  if (image.isTiled && plain && image.getSamplesPerPixel() === 3 && image.planarConfiguration === 1) {
    return { bytes: (await decoded(image, x, y)) ?? new Uint8Array(side * side * 3), stride: side };
  }
  const bytes = (await image.readRGB({ window: box, interleave: true })) as unknown as Uint8Array;
  return { bytes, stride: box[2] - box[0] };
}

/** Validity of a block's pixels, from a mask of one bit or one byte a pixel. */
async function maskOf(mask: GeoTIFFImage, x: number, y: number, box: Box, side: number) {
  if (mask.isTiled && mask.getTileWidth() === side && mask.getBitsPerSample() === 1) {
    const bits = await decoded(mask, x, y);
    const stride = Math.ceil(side / 8);
    return (row: number, col: number) => (bits ? (bits[row * stride + (col >> 3)] >> (7 - (col & 7))) & 1 : 0);
  }
  const [bytes] = (await mask.readRasters({ window: box })) as unknown as [Uint8Array];
  return (row: number, col: number) => bytes[row * (box[2] - box[0]) + col];
}

/** A block as it is stored, decompressed; null where the file leaves it out. */
async function decoded(image: GeoTIFFImage, x: number, y: number): Promise<Uint8Array | null> {
  const directory = image.fileDirectory;
  const index = y * Math.ceil(image.getWidth() / image.getTileWidth()) + x;
  const length = Number(await directory.loadValueIndexed("TileByteCounts", index));
  if (!length) return null;
  const offset = Number(await directory.loadValueIndexed("TileOffsets", index));
  const [stored] = await image.source.fetch([{ offset, length }]);
  const decoder = await getDecoder(Number(directory.getValue("Compression") ?? 1), {
    tileWidth: image.getTileWidth(),
    tileHeight: image.getTileHeight(),
    planarConfiguration: 1,
    bitsPerSample: new Array(image.getSamplesPerPixel()).fill(image.getBitsPerSample()),
    predictor: Number((await directory.loadValue("Predictor")) ?? 1),
  });
  return new Uint8Array((await decoder.decode(stored)) as ArrayBuffer);
}
