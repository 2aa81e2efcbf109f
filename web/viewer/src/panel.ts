/** Tables of the side panel, the scale bar, and messages. */

import type { PageData, Values } from "./data";

const UNITS: Record<string, string> = { db: "dB", dn: "DN" };

export const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

export function fill(table: string, rows: (readonly [string, string])[]): void {
  const body = element<HTMLTableElement>(table).tBodies[0];
  body.replaceChildren(
    ...rows.map(([name, value]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const cell = document.createElement("td");
      cell.textContent = value;
      row.append(head, cell);
      return row;
    }),
  );
}

export function showPicture(data: PageData): void {
  const stretches = data.radar.map(({ name, stretch }) => [`Radar ${name}, black to white`, stretch] as const);
  const grid = data.grid
    ? `${data.grid.rows.length * data.grid.cols.length} of ${data.grid.window} x ${data.grid.window}, overlap ${data.grid.overlap} or more`
    : data.gridNote;
  fill("picture", [
    ["Scene", data.title],
    ["Size", data.size],
    ["Georeference", data.georeference],
    ["Unit of the radar", data.unit ? (UNITS[data.unit] ?? data.unit) : "not known"],
    ...stretches,
    ["Windows", grid],
    ...(data.truth ? [["Optical image", [data.truth.name, data.truth.note].filter(Boolean).join(", ")] as const] : []),
  ]);
}

/** Degrees to 6 decimals, metres to 3. */
const coordinate = (value: number) => String(Number(value.toFixed(Math.abs(value) <= 360 ? 6 : 3)));
/** Whether the map's coordinates are the longitude and latitude themselves. */
const geographic = ({ map, lonlat }: Values) => map !== null && lonlat !== null && map.every((value, axis) => Math.abs(value - lonlat[axis]) < 1e-7);

const bytes = (rgb: number[] | null) => (rgb ? rgb.join(" ") : "no value");

export function showValues(data: PageData, values: Values): void {
  const unit = data.unit ? ` ${UNITS[data.unit] ?? data.unit}` : "";
  const degrees = (value: number, [plus, minus]: string) => `${Math.abs(value).toFixed(6)}°\u00a0${value < 0 ? minus : plus}`;
  fill("values", [
    ["Row, column", `${values.row}, ${values.col}`],
    ...(values.map && !geographic(values) ? [["x, y", values.map.map(coordinate).join(", ")] as const] : []),
    ...(values.lonlat ? [["Position", `${degrees(values.lonlat[1], "NS")}, ${degrees(values.lonlat[0], "EW")}`] as const] : []),
    ...data.radar.map(({ name }, k) => [`Radar ${name}`, values.radar[k] === null ? "no value" : `${values.radar[k]}${unit}`] as const),
    ...data.mosaics.map(({ name }, k) => [`${name}, RGB`, bytes(values.mosaics[k])] as const),
    ...(data.truth ? [[`Optical image ${data.truth.name}, RGB`, bytes(values.truth)] as const] : []),
  ]);
}

/** Length of the scale bar: 1, 2 or 5 times a power of ten, at most `widest` pixels of the screen. */
export function scaleBar(metres: number | null, resolution: number, widest = 140): { text: string; width: number } {
  const unit = (metres ?? 1) * resolution;
  const power = 10 ** Math.floor(Math.log10(widest * unit));
  const length = [5, 2, 1].map((digit) => digit * power).find((one) => one <= widest * unit) ?? power;
  const text = metres === null ? `${Number(length.toPrecision(6))} px` : length >= 1000 ? `${length / 1000} km` : `${Number(length.toPrecision(6))} m`;
  return { text, width: length / unit };
}

export function message(text: string): void {
  element("message").textContent = text;
  element("message").hidden = !text;
}
