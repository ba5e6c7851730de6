// The drawing, by p5: the letters that could come next stand like type on a line, each as tall as it is likely.
"use strict";

class TypeCase {
  /** Draws into `element`, whose width it takes. `still`: nothing moves. */
  constructor(element, still) {
    this._element = element;
    this._still = still;
    this._sorts = new Map(); // by character: what stands on the line now, and where it is going
    this._p5 = new p5((sketch) => this._program(sketch), element); // sets up later, at its own time
    this._ready = false;
  }

  /**
   * Show what may come: [{ character, probability }], likeliest first; `chosen`, the character that did, in red.
   */
  show(candidates, chosen = null) {
    const room = this.room();
    const shown = candidates.slice(0, room);
    const at = candidates.findIndex(({ character }) => character === chosen);
    if (at >= room) shown[room - 1] = candidates[at];
    const going = new Set(shown.map(({ character }) => character));
    for (const [character, sort] of this._sorts) {
      if (!going.has(character)) sort.target = { ...sort.target, ink: 0 };
    }
    shown.forEach(({ character, probability }, place) => {
      const target = { x: (place + 0.5) / room, height: Math.sqrt(probability), ink: 1 };
      const sort = this._sorts.get(character) || { now: { ...target, height: 0, ink: 0 } };
      this._sorts.set(character, { ...sort, target, probability, chosen: character === chosen });
    });
    this._p5.loop();
  }

  clear() {
    this._sorts.clear();
    this._p5.redraw();
  }

  /** How many letters have a place. */
  room() {
    return Math.max(5, Math.min(14, Math.floor(this._element.clientWidth / 56)));
  }

  /** Draw again, with the colours and the size that hold now. */
  refresh() {
    this._ink = null;
    if (!this._ready) return;
    this._p5.resizeCanvas(this._element.clientWidth, this._height());
    this._p5.loop();
  }

  _height() {
    return this._element.clientWidth < 480 ? 120 : 160;
  }

  _program(sketch) {
    sketch.setup = () => {
      sketch.createCanvas(this._element.clientWidth, this._height()).elt.setAttribute("aria-hidden", "true");
      sketch.textAlign(sketch.CENTER, sketch.BASELINE);
      this._ready = true;
    };
    sketch.draw = () => this._draw(sketch);
  }

  _draw(sketch) {
    const colours = this._colours();
    const line = sketch.height - 30;
    const tallest = line - 14;
    sketch.clear();
    sketch.stroke(colours.rule);
    sketch.strokeWeight(1);
    sketch.line(0, line + 0.5, sketch.width, line + 0.5);
    sketch.noStroke();
    let moving = false;
    for (const [character, sort] of this._sorts) {
      const still = !this._approach(sort);
      moving = moving || !still;
      if (sort.now.ink < 0.02 && sort.target.ink === 0) {
        this._sorts.delete(character);
        continue;
      }
      const x = sort.now.x * sketch.width;
      const colour = sketch.color(sort.chosen ? colours.red : colours.ink);
      colour.setAlpha(255 * sort.now.ink * (sort.chosen ? 1 : 0.45 + 0.55 * sort.now.height));
      const size = 18 + (tallest * 1.3 - 18) * sort.now.height;
      if (character === " ") {
        space(sketch, x, line - 6, size, colour);
      } else {
        sketch.fill(colour);
        sketch.textFont(colours.font);
        sketch.textSize(size);
        sketch.text(glyph(character), x, line - 6);
      }
      if (still && sort.target.ink) {
        sketch.fill(sort.chosen ? colours.red : colours.ink);
        sketch.textSize(15);
        sketch.text(percent(sort.probability), x, line + 20);
      }
    }
    if (!moving) sketch.noLoop();
  }

  /** Move a sort a part of its way; whether it still has way to go. */
  _approach(sort) {
    const part = this._still.matches ? 1 : 0.28;
    let way = 0;
    for (const each of ["x", "height", "ink"]) {
      const rest = sort.target[each] - sort.now[each];
      sort.now[each] += rest * part;
      way = Math.max(way, Math.abs(rest));
    }
    return way > 0.002;
  }

  /** The page's own colours and type, read once. */
  _colours() {
    if (!this._ink) {
      const style = getComputedStyle(this._element);
      const value = (name) => style.getPropertyValue(name).trim();
      this._ink = { ink: value("--ink"), red: value("--red"), rule: value("--rule"), font: "Fell" };
    }
    return this._ink;
  }
}

/** A space is drawn, as few typefaces have one to be seen: ⎵ */
function space(sketch, x, y, size, colour) {
  const [half, side] = [size * 0.22, size * 0.12];
  sketch.noFill();
  sketch.stroke(colour);
  sketch.strokeWeight(Math.max(1.5, size * 0.045));
  sketch.beginShape();
  for (const [dx, dy] of [[-half, -side], [-half, 0], [half, 0], [half, -side]]) sketch.vertex(x + dx, y + dy);
  sketch.endShape();
  sketch.noStroke();
}

/** A character as something that can be seen. */
function glyph(character) {
  return { "\n": "¶", "\t": "⇥" }[character] || character;
}

/** A character as it is called in a sentence. */
function called(character) {
  return { " ": "a space", "\n": "a new line", "\t": "a tab" }[character] || `“${character}”`;
}

function percent(probability) {
  const value = probability * 100;
  return value >= 9.95 ? `${Math.round(value)}` : value >= 0.095 ? value.toFixed(1) : value > 0 ? "<0.1" : "0";
}
