// The page, put together.

import { forgetKey } from "./api_key.js";
import { beginAtBottom } from "./bottom.js";
import { forget } from "./browser_storage.js";
import { Chat } from "./chat.js";
import { beginComposer, endEditing } from "./composer.js";
import { Conversation } from "./conversation.js";
import { watchModel } from "./model_status.js";
import { hideNotice, notice } from "./notice.js";
import { chatModels } from "./server.js";
import { beginSettings, clearSettings, offerModels, parameters, systemPrompt, tellDefaults } from "./settings.js";

const conversation = new Conversation();
const chat = new Chat(conversation, () => watchModel(onReady));

async function onReady(facts) {
  tellDefaults(facts);
  try {
    offerModels(await chatModels());
  } catch (error) {
    notice(error.message, "Try again", () => watchModel(onReady));
  }
}

function beginAnew() {
  const before = conversation.messages;
  chat.replace([]);
  endEditing();
  if (before.length) notice("A new conversation.", "Back to the one before", () => chat.replace(before));
}

function clearAll() {
  chat.replace([]);
  clearSettings();
  forgetKey();
  forget("settings");
  endEditing();
  notice("Nothing is stored in this browser any more.", "Close", hideNotice);
}

/** Save a request that would continue the conversation, as JSON. */
function exportConversation() {
  const messages = conversation.history(systemPrompt());
  const text = JSON.stringify({ ...parameters(), messages }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

beginSettings();
beginComposer((text, isCorrection) => chat.send(text, isCorrection), () => chat.stop());
beginAtBottom();
chat.show();
watchModel(onReady);

document.getElementById("new").addEventListener("click", beginAnew);
document.getElementById("clear").addEventListener("click", clearAll);
document.getElementById("export").addEventListener("click", exportConversation);
addEventListener("pagehide", () => chat.keepUnfinished());
