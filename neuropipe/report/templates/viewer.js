// A scope of its own: page.js, which follows, has names of its own too.
{
  "use strict";
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const LONGEST = 560; // pixels of the longest edge of a plane
  // Anchors of the colour maps of matplotlib, interpolated between.
  const MAPS = {
    inferno: ["000004", "280b53", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4"],
    viridis: ["440154", "46327e", "365c8d", "277f8e", "1fa187", "4ac16d", "a0da39", "fde725"],
    hot: ["0a0000", "5b0000", "ae0000", "ff0300", "ff5600", "ffa900", "fffc00", "ffffff"],
  };
  const colour = (name, share) => {
    const anchors = MAPS[name];
    const place = share * (anchors.length - 1);
    const first = Math.min(Math.floor(place), anchors.length - 2);
    return [0, 2, 4].map((at) => {
      const [a, b] = [first, first + 1].map((i) => parseInt(anchors[i].slice(at, at + 2), 16));
      return Math.round(a + (b - a) * (place - first));
    });
  };
  const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  // The picture of a stack, unpacked: values[slice][row][column] in one array.
  const unpack = async (stack) => {
    if (!stack) return null;
    const image = new Image();
    image.src = stack.uri;
    await image.decode();
    const context = canvasOf(image.width, image.height).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height).data;
    const [n, rows, columns] = stack.shape;
    const values = new Uint8Array(n * rows * columns);
    for (let slice = 0, to = 0; slice < n; slice++) {
      const top = Math.floor(slice / stack.columns) * rows;
      const left = (slice % stack.columns) * columns;
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) values[to++] = pixels[4 * ((top + row) * image.width + left + column)];
      }
    }
    return { values, shape: stack.shape, strides: [rows * columns, columns, 1] };
  };

  // One plane of a stack as a small canvas; `paint` gives red, green, blue and alpha of a value.
  const cut = (stack, plane, share, paint) => {
    const { axis, across, up, flip } = plane;
    const [width, height, deep] = [stack.shape[across], stack.shape[up], stack.shape[axis]];
    const start = Math.min(Math.floor(share * deep), deep - 1) * stack.strides[axis];
    const small = canvasOf(width, height);
    const context = small.getContext("2d");
    const out = context.createImageData(width, height);
    for (let row = 0; row < height; row++) {
      const line = start + (flip ? height - 1 - row : row) * stack.strides[up];
      for (let column = 0; column < width; column++) {
        out.data.set(paint(stack.values[line + column * stack.strides[across]]), 4 * (row * width + column));
      }
    }
    context.putImageData(out, 0, 0);
    return small;
  };

  const start = async () => {
    const [base, overlay] = await Promise.all([unpack(data.base), unpack(data.overlay)]);
    const opacity = document.getElementById("opacity");
    const map = document.getElementById("map");
    const greys = Array.from({ length: 256 }, (_, value) => [value, value, value, 255]);
    let colours = [];
    const views = data.planes.map((plane, i) => {
      const canvas = document.getElementById(`plane-${i}`);
      const slider = document.getElementById(`slider-${i}`);
      const longest = Math.max(...data.planes.flatMap((p) => [data.size[p.across], data.size[p.up]]));
      canvas.width = Math.round((LONGEST * data.size[plane.across]) / longest);
      canvas.height = Math.round((LONGEST * data.size[plane.up]) / longest);
      const names = data.positions[plane.axis];
      slider.max = names.length - 1;
      slider.value = Math.floor(names.length / 2);
      slider.disabled = names.length < 2;
      return { plane, canvas, slider, names, out: document.getElementById(`place-${i}`) };
    });
    const share = (view) => (Number(view.slider.value) + 0.5) / view.names.length;
    const ofAxis = (axis) => views.find((view) => view.plane.axis === axis);

    const cross = (view, context) => {
      const [across, up] = [ofAxis(view.plane.across), ofAxis(view.plane.up)];
      if (!across || !up) return;
      const x = share(across) * view.canvas.width;
      const y = (1 - share(up)) * view.canvas.height;
      context.strokeStyle = "rgb(120 190 255 / 0.75)";
      context.lineWidth = 1.5;
      const gap = 14;
      context.beginPath();
      for (const [a, b] of [[0, x - gap], [x + gap, view.canvas.width]]) { context.moveTo(a, y); context.lineTo(b, y); }
      for (const [a, b] of [[0, y - gap], [y + gap, view.canvas.height]]) { context.moveTo(x, a); context.lineTo(x, b); }
      context.stroke();
    };
    const draw = (view) => {
      const context = view.canvas.getContext("2d");
      const { width, height } = view.canvas;
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.globalAlpha = 1;
      context.drawImage(cut(base, view.plane, share(view), (value) => greys[value]), 0, 0, width, height);
      if (overlay) {
        context.globalAlpha = Number(opacity.value) / 100;
        context.drawImage(cut(overlay, view.plane, share(view), (value) => colours[value]), 0, 0, width, height);
        context.globalAlpha = 1;
      }
      cross(view, context);
      const name = view.names[Number(view.slider.value)];
      view.out.textContent = name;
      view.slider.setAttribute("aria-valuetext", name);
    };
    const drawAll = () => views.forEach(draw);
    const recolour = () => {
      // Small values are clear, so that the anatomy below them can be seen.
      colours = Array.from({ length: 256 }, (_, value) => [...colour(map.value, value / 255), value]);
      const bar = document.getElementById("colours");
      const context = bar.getContext("2d");
      for (let x = 0; x < bar.width; x++) {
        context.fillStyle = `rgb(${colour(map.value, x / (bar.width - 1)).join(" ")})`;
        context.fillRect(x, 0, 1, bar.height);
      }
      drawAll();
    };
    for (const view of views) {
      view.slider.addEventListener("input", drawAll);
      const point = (event) => {
        const box = view.canvas.getBoundingClientRect();
        const move = (axis, at) => {
          const other = ofAxis(axis);
          if (other) other.slider.value = Math.floor(at * other.names.length);
        };
        move(view.plane.across, (event.clientX - box.left) / box.width);
        move(view.plane.up, 1 - (event.clientY - box.top) / box.height);
        drawAll();
      };
      view.canvas.addEventListener("pointerdown", point);
      view.canvas.addEventListener("pointermove", (event) => event.buttons && point(event));
    }
    if (overlay) {
      opacity.addEventListener("input", () => {
        document.getElementById("opacity-value").textContent = `${opacity.value} %`;
        drawAll();
      });
      map.addEventListener("change", recolour);
      recolour();
    } else drawAll();
    document.getElementById("viewer").dataset.ready = "yes";
  };
  start();
}
