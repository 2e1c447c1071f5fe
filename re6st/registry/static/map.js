// The map of the mesh: nodes and tunnels as the nodes reported them, laid out by springs (Fruchterman and Reingold).
// What was laid out before stays where it is as far as possible, so that a change is seen as a change.
"use strict";

const Mesh = (() => {
  const SIZE = 1000;
  const places = new Map();

  const svg = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };

  function layOut(nodes, pairs) {
    const known = nodes.filter((node) => places.has(node.prefix)).length;
    const points = nodes.map((node, index) => {
      const angle = (index * 2.399963) % (2 * Math.PI);  // the golden angle spreads newcomers evenly
      const radius = SIZE / 2 * Math.sqrt((index + 0.5) / nodes.length);
      return { ...(places.get(node.prefix) || { x: radius * Math.cos(angle), y: radius * Math.sin(angle) }) };
    });
    const ideal = SIZE / Math.sqrt(nodes.length + 1);
    const settled = known > nodes.length / 2;
    const rounds = Math.round(Math.min(200, 4e7 / (nodes.length * nodes.length + 1)) * (settled ? 0.25 : 1));
    for (let round = 0; round < rounds; round++) {
      const moves = points.map(({ x, y }) => ({ x: -x * 0.02, y: -y * 0.02 }));
      for (let a = 0; a < points.length; a++) {
        for (let b = a + 1; b < points.length; b++) {
          const x = points[a].x - points[b].x, y = points[a].y - points[b].y;
          const push = ideal * ideal / (x * x + y * y + 1);
          moves[a].x += x * push; moves[a].y += y * push;
          moves[b].x -= x * push; moves[b].y -= y * push;
        }
      }
      for (const [a, b] of pairs) {
        const x = points[a].x - points[b].x, y = points[a].y - points[b].y;
        const pull = Math.hypot(x, y) / ideal;
        moves[a].x -= x * pull; moves[a].y -= y * pull;
        moves[b].x += x * pull; moves[b].y += y * pull;
      }
      const longest = SIZE / 10 * (1 - round / rounds) * (settled ? 0.25 : 1);
      points.forEach((point, index) => {
        const { x, y } = moves[index];
        const scale = Math.min(1, longest / (Math.hypot(x, y) || 1));
        point.x += x * scale; point.y += y * scale;
      });
    }
    places.clear();
    nodes.forEach((node, index) => places.set(node.prefix, points[index]));
    return points;
  }

  function viewBox(points) {
    const xs = points.map((point) => point.x), ys = points.map((point) => point.y);
    const least = [Math.min(...xs) - 60, Math.min(...ys) - 40];
    return [...least, Math.max(...xs) + 60 - least[0], Math.max(...ys) + 50 - least[1]].join(" ");
  }

  function quality(tunnel) {
    const parts = [tunnel.established];
    if (tunnel.round_trip !== undefined) parts.push(`${(tunnel.round_trip * 1000).toFixed(tunnel.round_trip < 0.01 ? 1 : 0)} ms`);
    if (!tunnel.confirmed) parts.push("reported by one end only");
    return parts.join(", ");
  }

  function speed(tunnel) {
    if (tunnel.round_trip === undefined) return "unknown";
    return tunnel.round_trip < 0.05 ? "near" : tunnel.round_trip < 0.15 ? "middling" : "far";
  }

  // Returns the picture; choose(node) is called for a node that was clicked.
  function draw(mesh, choose) {
    const index = new Map(mesh.nodes.map((node, number) => [node.prefix, number]));
    const pairs = mesh.tunnels.map((tunnel) => [index.get(tunnel.dialer), index.get(tunnel.listener)]);
    const points = layOut(mesh.nodes, pairs);
    const lines = mesh.tunnels.map((tunnel, number) => {
      const [a, b] = pairs[number].map((end) => points[end]);
      const names = pairs[number].map((end) => mesh.nodes[end].name);
      return svg("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: `tunnel ${speed(tunnel)}${tunnel.confirmed ? "" : " unconfirmed"}` },
        svg("title", {}, `${names[0]} → ${names[1]}: ${quality(tunnel)}`));
    });
    const touching = mesh.nodes.map((_, number) => lines.filter((_, line) => pairs[line].includes(number)));
    const light = (number, on) => touching[number].forEach((line) => line.classList.toggle("lit", on));
    // Many nodes are drawn on a larger plane: dots must stay visible, those with trouble above all.
    const plane = viewBox(points).split(" ").map(Number);
    const scale = Math.max(1, Math.max(plane[2], plane[3]) / 1400);
    const radius = (node) => scale * (["warning", "bad"].includes(node.severity) ? 12 : node.reachability === "outgoing only" ? 6 : scale > 1 ? 7 : 10);
    const groups = mesh.nodes.map((node, number) => svg("g", {
      class: `node ${node.severity || "well"}`, tabindex: 0, "data-key": node.prefix, role: "button", "aria-label": `${node.name}, ${node.severity || "well"}`,
      onclick: () => choose(node), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(node); } },
      onmouseenter: () => light(number, true), onmouseleave: () => light(number, false),
      onfocus: () => light(number, true), onblur: () => light(number, false),
    },
    svg("title", {}, `${node.name}\n${node.prefix}\n${touching[number].length} tunnels, ${node.reachability}`),
    svg("circle", { cx: points[number].x, cy: points[number].y, r: radius(node), "stroke-width": 2 * scale }),
    ...(mesh.nodes.length > 150 ? [] : [svg("text", { x: points[number].x, y: points[number].y + 26 }, node.name)])));
    const ills = ["note", "warning", "bad"];
    const order = mesh.nodes.map((node, number) => [ills.indexOf(node.severity), number]).sort(([a], [b]) => a - b);
    return svg("svg", { id: "map", viewBox: viewBox(points), role: "group", "aria-label": "Map of the mesh" }, ...lines, ...order.map(([, number]) => groups[number]));
  }

  return { draw };
})();
