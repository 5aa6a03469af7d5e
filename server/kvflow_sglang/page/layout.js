// A worker: places the nodes of a graph, off the page's own thread.

importScripts("vendor/dagre.min.js");

onmessage = ({ data: { shape, nodes, edges, width, height } }) => {
  const graph = new dagre.graphlib.Graph({ multigraph: false });
  graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 56, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  // By number: a name like `__proto__` is not for a library to keep.
  nodes.forEach((node) => graph.setNode(String(node), { width, height }));
  edges.forEach(([source, target]) => graph.setEdge(String(source), String(target)));
  dagre.layout(graph);
  const { width: wide = 0, height: high = 0 } = graph.graph();
  postMessage({
    shape,
    width: wide,
    height: high,
    places: nodes.map((node) => {
      const { x, y } = graph.node(String(node));
      return { node, x, y };
    }),
    lines: edges.map(([source, target]) => graph.edge(String(source), String(target)).points),
  });
};
