/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** Shows a message in an element, or hides the element. */
export function tell(element, message) {
  element.textContent = message ?? "";
  element.hidden = !message;
}
