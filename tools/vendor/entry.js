export { h, render, Fragment } from "preact";
export { useEffect, useLayoutEffect, useMemo, useRef, useState, useId } from "preact/hooks";
export { signal, computed, effect, batch, useSignal, useComputed, useSignalEffect } from "@preact/signals";
import htm from "htm";
import { h } from "preact";
export const html = htm.bind(h);
export { scaleLinear, scaleLog } from "d3-scale";
export { line, area, curveStepAfter, arc } from "d3-shape";
export { format } from "d3-format";
