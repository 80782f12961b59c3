// The photos as they were chosen in this browser, so that a reload loses none: each one's number and batch, what
// was asked, and the file until it has an answer.

const STORE = "photos";
let opening = null;

const open = () =>
  (opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("growbin", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "name" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  }));

/** Null where storage is forbidden or full. */
async function act(mode, work) {
  try {
    const transaction = (await open()).transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } catch {
    return null;
  }
}

export const keep = (photo) => act("readwrite", (photos) => photos.put(photo));
export const forget = (name) => act("readwrite", (photos) => photos.delete(name));
export const keptPhotos = async () => (await act("readonly", (photos) => photos.getAll())) ?? [];
