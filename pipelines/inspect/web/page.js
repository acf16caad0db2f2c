// Copy buttons copy the code that follows or precedes them; choosing in a list or a box filters at once.
"use strict";

function codeOf(button) {
  return button.parentElement.querySelector("code") || button.parentElement.nextElementSibling;
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(codeOf(button).textContent);
    button.textContent = "copied";
  });
}

for (const input of document.querySelectorAll(".filters select, .filters [type=checkbox]")) {
  input.addEventListener("change", () => input.form.requestSubmit());
}
