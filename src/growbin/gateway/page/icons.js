// What is drawn beside words: paths on a ground of 24 by 24.

/** Where things go: materials that are collected, and categories. */
export const KINDS = {
  paper: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  carton: "M6 10l3-5h6l3 5v11H6zM6 10h12M9 2.5h6V5H9zM9 15h6",
  clear_pet: "M10 2h4v3.5l2.5 4V21a1 1 0 0 1-1 1h-7a1 1 0 0 1-1-1V9.5l2.5-4zM7.5 12h9M7.5 17h9",
  plastics: "M4 5h16v3.5H4zM5.5 8.5h13L17 21H7zM9.5 12.5l.5 5M14.5 12.5l-.5 5",
  film: "M5.5 8h13L20 21H4zM9 11V6a3 3 0 0 1 6 0v5",
  foam: "M12 3l8.5 4.5v9L12 21l-8.5-4.5v-9zM3.5 7.5 12 12l8.5-4.5M12 12v9",
  glass: "M10.5 2h3v7l2.5 3.5V21a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1v-8.5L10.5 9zM8 15h8v4H8z",
  metals: "M6 6v12c0 3.5 12 3.5 12 0V6M12 3.5a6 2.5 0 1 1 0 5 6 2.5 0 0 1 0-5zM6 11c0 3.5 12 3.5 12 0",
  textiles: "M8.5 3 2.5 6.5l2 4.5L7 10v11h10V10l2.5 1 2-4.5L15.5 3c-.5 3.5-6.5 3.5-7 0z",
  batteries: "M2.5 7.5h16v9h-16zM18.5 10.5h3v3h-3M11.5 9.5 9 12h3l-2.5 2.5",
  lamps: "M9 17.5h6M10 21h4M12 2.5a6.5 6.5 0 0 1 3.5 12v3h-7v-3a6.5 6.5 0 0 1 3.5-12z",
  e_waste: "M3 4.5h18V16H3zM12 16v4M8 20h8",
  recyclable: "M4 12a8 8 0 0 1 14-5.3M20 12a8 8 0 0 1-14 5.3M18.5 2.5v4.5H14M5.5 21.5V17H10",
  general: "M8.5 2.5h7L13.5 7h-3zM10.5 7C4.5 9.5 3 21 6 21h12c3 0 1.5-11.5-4.5-14",
  non_combustible: "M4 4h13v8a5 5 0 0 1-5 5H9a5 5 0 0 1-5-5zM17 6h1.5a2.5 2.5 0 0 1 0 5H17M4 21h13M11 4 9 8l3.5 2L11 13",
  food: "M12 8c-3.5-3-8.5-.5-8 4.5s4.5 9.5 8 8c3.5 1.5 7.5-3 8-8S15.5 5 12 8zM12 8c0-3 1-4.5 3-5.5",
  bulky: "M5 11V7.5a2 2 0 0 1 2-2h10a2 2 0 0 1 2 2V11M2.5 11H6v4h12v-4h3.5v8h-19zM5.5 19v2M18.5 19v2",
  construction: "M3 5h18v14H3zM3 9.7h18M3 14.3h18M12 5v4.7M7.5 9.7v4.6M16.5 9.7v4.6M12 14.3V19",
  hazardous: "M12 2l10 10-10 10L2 12zM12 7.5V13M12 16.2v.1",
};

/** Why it is not certain what a photo shows. */
export const REASONS = {
  several: "M4 4h7v7H4zM14 5h6v6h-6zM4 14h6v6H4zM13 14h7v6h-7z",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  blurred: "M8 4h8v16H8zM4.5 8v8M1.5 10v4M19.5 8v8M22.5 10v4",
  far: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.5 15.5l5 5M10.5 8v5M8 10.5h5",
  unknown: "M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.9v.1",
  not_waste: "M4 3l16 18M10 5.5c5.5-1 9.5 2.5 11.5 6.5a15 15 0 0 1-3 4M6.5 7a14 14 0 0 0-4 5c2 4.5 7 8 12.5 6",
};

export const SIGNS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  person: "M12 4a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM4.5 20.5c0-4.5 3-7 7.5-7s7.5 2.5 7.5 7",
  speech: "M4 5h16v11H11l-4.5 4V16H4z",
};

export function icon(path) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("viewBox", "0 0 24 24");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}
