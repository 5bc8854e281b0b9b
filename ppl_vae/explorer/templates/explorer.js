// What the page does in the browser. Questions are column data sources: Python, or in a page without
// a server the functions of `fixed`, answer them by changing others.
window.pplvae = (() => {
  const SHADE = [63, 144, 218];
  const pending = new Map();

  // Ask one question at a time: while an answer is awaited, only the newest of the others is kept.
  function ask(question, data) {
    const state = pending.get(question.id);
    if (state && performance.now() - state.since < 3000) {
      state.next = data;
      return;
    }
    pending.set(question.id, { since: performance.now(), next: null });
    question.data = data;
  }

  function answered(question) {
    const state = pending.get(question.id);
    pending.delete(question.id);
    if (state && state.next) ask(question, state.next);
  }

  // Return the datum whose point is nearest on the screen.
  function nearest(points, map, x, y) {
    const across = map.x_range.end - map.x_range.start;
    const up = map.y_range.end - map.y_range.start;
    let best = 0, least = Infinity;
    for (let i = 0; i < points.data.x.length; i++) {
      const distance = ((points.data.x[i] - x) / across) ** 2 + ((points.data.y[i] - y) / up) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  // Follow the pointer on a figure. Bokeh's own gestures do not take for a drag what begins with a
  // moment's rest.
  function follow(figure, on) {
    const view = Bokeh.index.find_one(figure);
    let start = null, dragging = false;
    function place(event) {
      const at = view.el.getBoundingClientRect(), frame = view.frame;
      const [sx, sy] = [event.clientX - at.x, event.clientY - at.y];
      const { left, right, top, bottom } = frame.bbox;
      const inside = sx >= left && sx <= right && sy >= top && sy <= bottom;
      return { x: frame.x_scale.invert(sx), y: frame.y_scale.invert(sy), sx, sy, inside };
    }
    view.el.addEventListener("pointerdown", (event) => {
      const at = place(event);
      if (!at.inside || event.button != 0) return;
      [start, dragging] = [at, false];
      on.press?.(at);
    }, true);
    window.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (start == null) {
        if (at.inside) on.point?.(at);
        return;
      }
      if (!dragging && Math.hypot(at.sx - start.sx, at.sy - start.sy) < 4) return;
      if (!dragging) on.start?.(start);
      dragging = true;
      on.move?.(at);
    }, true);
    window.addEventListener("pointerup", (event) => {
      if (start == null) return;
      const at = place(event);
      if (dragging) on.end?.(at);
      else on.click?.(at);
      start = null;
    }, true);
  }

  // Point at places, choose a datum by a click, and drag from one datum to another.
  function follow_map(map, points, question, chosen, path, line) {
    const near = (at) => nearest(points, map, at.x, at.y);
    const of = (i) => [points.data.x[i], points.data.y[i]];
    let from = 0, to = -1;
    function draw(end) {
      const start = of(from);
      line.data = { x: [start[0], end[0]], y: [start[1], end[1]] };
    }
    function toward(i) {
      if (i != from && i != to) ask(path, { a: [from], b: [i] });
      to = i;
    }
    follow(map, {
      point: (at) => ask(question, { x: [at.x], y: [at.y], slide: [null] }),
      click: (at) => ask(chosen, { index: [near(at)] }),
      start: (at) => { [from, to] = [near(at), -1]; },
      move: (at) => { toward(near(at)); draw([at.x, at.y]); },
      end: (at) => { toward(near(at)); draw(of(near(at))); },
    });
  }

  function slide(question, sliders) {
    ask(question, { x: [null], y: [null], slide: [sliders.map((s) => s.value)] });
  }

  // Painting a mask: cells of a grid of H times W, hidden or shown.
  function draw_mask(overlay, grid, colour) {
    const pixels = overlay.data.image[0];
    for (let i = 0; i < grid.length; i++) pixels[i] = grid[i] ? colour : 0;
    overlay.change.emit();
  }

  const grids = new Map();

  function grid_of(mask) {
    if (!grids.has(mask.id)) grids.set(mask.id, Array.from(mask.data.hidden[0]));
    return grids.get(mask.id);
  }

  function follow_painter(figure, mask, overlay, height, width, brush, mode, colour) {
    let last = null;
    function stroke(at) {
      const grid = grid_of(mask), value = mode.active == 0 ? 1 : 0, size = brush.value;
      const [y, x] = [Math.floor(at.y), Math.floor(at.x)];
      const [y0, x0] = last || [y, x];
      const low = Math.floor((size - 1) / 2), high = Math.floor(size / 2);
      const count = Math.max(1, Math.abs(y - y0), Math.abs(x - x0));
      for (let k = 0; k <= count; k++) {  // the pointer may have jumped
        const row = Math.round(y0 + ((y - y0) * k) / count);
        const column = Math.round(x0 + ((x - x0) * k) / count);
        for (let r = Math.max(0, row - low); r <= Math.min(height - 1, row + high); r++)
          for (let c = Math.max(0, column - low); c <= Math.min(width - 1, column + high); c++)
            grid[r * width + c] = value;
      }
      last = [y, x];
      draw_mask(overlay, grid, colour);
    }
    function done() {
      last = null;
      ask(mask, { hidden: [grid_of(mask).slice()] });
    }
    follow(figure, { press: stroke, move: stroke, end: done, click: done });
  }

  function fill(what, mask, overlay, height, width, colour) {
    const grid = grid_of(mask);
    for (let i = 0; i < grid.length; i++) {
      const row = Math.floor(i / width), column = i % width;
      if (what == "nothing") grid[i] = 0;
      else if (what == "top") grid[i] = row < height / 2 ? 1 : 0;
      else if (what == "left") grid[i] = column < width / 2 ? 1 : 0;
      else grid[i] = Math.random() < 0.5 ? 1 : 0;
    }
    draw_mask(overlay, grid, colour);
    ask(mask, { hidden: [grid.slice()] });
  }

  const escape = (text) =>
    text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

  // What is precomputed of a pair, in a page without a server. Tiles of all kinds are in rows of
  // one array each; `kind` is grid, data, reconstructions, draws or slides.
  const fixed = (() => {
    // Of an array with a shape, whose own methods return others with that shape.
    const part = (array, i, length) => Array.prototype.slice.call(array, i * length, (i + 1) * length);

    function tile(values, kind, i) {
      const texts = values.tags[0].texts ? values.tags[0].texts[kind][i] : null;
      return { shades: part(values.data[kind][0], i, values.tags[0].tile), texts };
    }

    function show(sheet, values, tiles) {
      const about = values.tags[0];
      if (about.texts) {
        sheet.text = table(about.names, sheet.tags[0], tiles);
        return;
      }
      const [height, width] = about.size, channels = about.channels;
      const pixels = sheet.data.image[0], across = sheet.tags[0].across, step = sheet.tags[0].step;
      tiles.forEach((one, place) => {
        for (let row = 0; row < height; row++)
          for (let column = 0; column < width; column++) {
            const at = (row * width + column) * channels;
            const [r, g, b] = channels == 1 ? [0, 0, 0].fill(one.shades[at])
              : [0, 1, 2].map((c) => one.shades[at + c]);
            pixels[row * across + place * step + column] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
          }
      });
      sheet.change.emit();
    }

    function table(names, heads, tiles) {
      const head = heads.map((h) => `<th>${escape(h)}</th>`).join("");
      const rows = names.map((name, j) => {
        const cells = tiles.map((one) => {
          const shade = (0.75 * one.shades[j]) / 255;
          return `<td style="background:rgba(${SHADE}, ${shade.toFixed(2)})">${escape(one.texts[j])}</td>`;
        });
        return `<tr><th>${escape(name)}</th>${cells.join("")}</tr>`;
      });
      return `<table class="cells"><tr><th></th>${head}</tr>${rows.join("")}</table>`;
    }

    function cell(values, x, y) {
      const { n, x: [x0, x1], y: [y0, y1] } = values.tags[0].grid;
      const at = (v, low, high) =>
        Math.min(n - 1, Math.max(0, Math.round(((v - low) / (high - low)) * (n - 1))));
      return at(y, y0, y1) * n + at(x, x0, x1);
    }

    function place(question, values, sheet, cross, sliders) {
      const { x: [x], y: [y], slide: [slides] } = question.data;
      if (slides) slide_alone(question, values, sheet, sliders, slides);
      else {
        show(sheet, values, [tile(values, "grid", cell(values, x, y))]);
        cross.data = { x: [x], y: [y] };
      }
      answered(question);
    }

    // One dimension is moved at a time: the other sliders go back to the average.
    function slide_alone(question, values, sheet, sliders, slides) {
      const { start, ends, steps } = values.tags[0].slides;
      const last = question._slides || start;
      const moved = slides.findIndex((v, k) => v != last[k]);
      if (moved < 0) return;
      question._slides = start.map((v, k) => (k == moved ? slides[k] : v));
      sliders.forEach((slider, k) => (slider.value = question._slides[k]));
      const [low, high] = ends[moved];
      const share = (slides[moved] - low) / (high - low);
      const step = Math.min(steps - 1, Math.max(0, Math.round(share * (steps - 1))));
      show(sheet, values, [tile(values, "slides", moved * steps + step)]);
    }

    function choose(chosen, values, points, sheet, ring, draws, title) {
      const i = chosen.data.index[0], about = values.tags[0];
      ring.data = { x: [points.data.x[i]], y: [points.data.y[i]] };
      const { stored, draws: count, cloud } = about;
      draws.data = {
        x: part(values.data.cloud_x[0], i, cloud),
        y: part(values.data.cloud_y[0], i, cloud),
      };
      const there = i < stored;
      title.text = `<h3>${escape(about.captions[i])}</h3>` +
        (there ? "" : `<p>Its values are not on this page, which has those of ${stored} data.</p>`);
      if (there) {
        const tiles = [tile(values, "data", i), tile(values, "reconstructions", i)];
        for (let k = 0; k < count; k++) tiles.push(tile(values, "draws", i * count + k));
        show(sheet, values, tiles);
      }
      answered(chosen);
    }

    function walk(path, values, points, sheet, steps, title) {
      const { a: [a], b: [b] } = path.data, { stored, captions } = values.tags[0];
      const [x, y] = [points.data.x, points.data.y];
      const tiles = [];
      const end = (i) => (i < stored ? tile(values, "data", i) : tile(values, "grid", cell(values, x[i], y[i])));
      tiles.push(end(a));
      for (let k = 0; k < steps; k++) {
        const t = k / (steps - 1);
        tiles.push(tile(values, "grid", cell(values, (1 - t) * x[a] + t * x[b], (1 - t) * y[a] + t * y[b])));
      }
      tiles.push(end(b));
      show(sheet, values, tiles);
      title.text = `<h3>from ${escape(captions[a])} to ${escape(captions[b])}</h3>`;
      answered(path);
    }

    function colour(name, points, legend) {
      const { palette, legend: text } = points.tags[0][name];
      const index = points.data[`colour ${name}`];
      points.data = { ...points.data, colour: Array.from(index, (i) => palette[i]) };
      legend.text = text;
    }

    return { place, choose, walk, colour };
  })();

  return { answered, follow_map, follow_painter, slide, fill, fixed };
})();
