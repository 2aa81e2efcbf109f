/** Keys of the whole page; fields and the swipe's line keep their own. */

export interface Actions {
  pan(right: number, down: number, single: boolean): void;
  /** Do what a button does. */
  press(id: string): void;
  close(): void;
}

const BUTTONS: Record<string, string> = {
  "+": "zoom-in",
  "=": "zoom-in",
  "-": "zoom-out",
  "1": "one-to-one",
  f: "fit",
  s: "toggle-swipe",
  m: "toggle-mask",
  g: "toggle-grid",
  p: "toggle-panel",
  "?": "toggle-help",
};
const ARROWS: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function onKeys(actions: Actions): void {
  document.addEventListener("keydown", (event) => {
    const at = event.target as HTMLElement;
    const own = at.closest("select") || (at.closest("input") && !(event.key.toLowerCase() in BUTTONS)); // a slider needs no letters
    if (event.ctrlKey || event.metaKey || event.altKey || own) {
      if (event.key === "Escape") at.blur();
      return;
    }
    if (event.key === "Escape") return actions.close();
    const arrow = ARROWS[event.key];
    const button = BUTTONS[event.key.toLowerCase()];
    if (arrow && !at.closest("#panel")) actions.pan(...arrow, event.shiftKey);
    else if (button) actions.press(button);
    else return;
    event.preventDefault();
  });
}
