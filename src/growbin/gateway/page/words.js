// What the page says, in Korean and English. Stage messages and advice come from the service.

const WORDS = {
  ko: {
    promise: "찍으면,\n버리는 법을 알려 드려요.",
    lead: "버릴 물건을 사진 한 장에 담아 주세요. 어디에 어떻게 버릴지 차례대로 보여 드려요.",
    capture: "사진 찍기",
    choose: "사진 고르기",
    drop: "사진을 끌어다 놓거나 붙여 넣어도 돼요. 여러 장도 괜찮아요.",
    question: "궁금한 점 (선택) 사진을 올리기 전에 적어 주세요",
    question_example: "예: 뚜껑은 따로 버리나요?",
    privacy: "사진에 담긴 위치 정보 등은 분석하기 전에 지워요.",
    photos: "내 사진",
    how_take: "물건 하나가 잘 보이게 찍어요.",
    how_wait: "몇 초 기다려요. 어디까지 왔는지 보여 드려요.",
    how_follow: "수거함과 버리는 순서를 확인해요.",
    older: "이전 사진 더 보기",
    docs: "개발자용 API 문서",
    switch_language: "English",

    preparing: "사진을 준비하고 있어요.",
    in_line: "앞 사진을 먼저 올리고 있어요.",
    uploading: "사진을 올리고 있어요.",
    uploaded: "사진을 다 올렸어요.",
    reconnecting: "다시 연결하고 있어요. 하던 일은 계속되고 있어요.",
    waiting_for_service: "서비스의 응답을 기다리고 있어요.",
    waiting_for_network: "인터넷에 연결되면 바로 올릴게요.",
    offline: "인터넷 연결이 끊겼어요. 다시 연결되면 이어서 할게요.",
    cancelling: "취소하고 있어요.",

    photo: "사진",
    photo_of: "{name} 사진",
    progress_of: "진행률",
    and_more: "{name} 외 {count}개",
    no_result: "결과가 없어요",
    refused: "사용할 수 없는 파일이에요",
    cancelled_title: "취소한 사진",
    bin: "버리는 곳",
    sure: "확실해요",
    probable: "아마 맞을 거예요",
    unsure: "확실하지 않아요",
    perhaps: "혹시 {names}인가요?",
    if_so: "맞다면 이렇게 버려요",
    nothing_known: "모르는 물건",
    nothing_more: "무엇인지 알아보지 못했어요. 밝은 곳에서 물건 하나만 크게 찍어 주세요.",
    again: "다시 찍기",
    answer: "질문에 대한 답",
    unanswered: "질문에는 답하지 못했어요. 버리는 법은 그대로 따라 해도 돼요.",
    source: "근거: {source}",
    as_of: " ({date} 기준)",
    place: "{place} 안내",
    days: "내놓는 때: {days}",
    contact: "문의: {contact}",
    embedded: "작은 내장 모델이 답했어요. 틀릴 수 있으니 확인해 주세요.",
    took: "{seconds}초 걸렸어요 · {model}",
    open: "자세히 보기: {name}",
    close: "접기: {name}",
    retry: "다시 시도",
    cancel: "취소",
    remove: "지우기",
    removed: "{name} 사진을 지웠어요.",

    right: "맞아요",
    thanks: "알려 주셔서 고마워요.",
    not_this: "이게 아닌가요?",
    other: "다른 거예요",
    pick: "직접 고르기",
    chosen: "직접 고르셨어요: {name}",
    take_back: "처음 답 보기",

    find: "이름으로 찾기",
    find_example: "예: 종이컵",
    found: "{count}개 찾았어요.",
    found_none: "찾지 못했어요. 더 짧은 이름이나 비슷한 물건으로 찾아보거나 사진을 찍어 주세요.",
    close_thing: "닫기",

    paper: "종이",
    carton: "종이팩",
    clear_pet: "투명 페트병",
    plastics: "플라스틱",
    film: "비닐",
    foam: "스티로폼",
    glass: "유리병",
    metals: "캔·고철",
    textiles: "옷·천",
    batteries: "건전지·배터리",
    lamps: "형광등",
    e_waste: "가전제품",
    general: "일반 쓰레기",
    non_combustible: "타지 않는 쓰레기",
    food: "음식물 쓰레기",
    bulky: "대형폐기물",
    construction: "집수리 쓰레기",
    hazardous: "약·페인트·농약",

    stage_awaiting_upload: "올리기",
    stage_queued: "대기",
    stage_fetching: "불러오기",
    stage_analysing: "살펴보기",
    stage_advising: "안내",

    not_a_photo: "사진이 아니거나 손상된 파일이에요. JPEG, PNG, WebP, HEIC 사진을 골라 주세요.",
    photo_too_large: "사진이 너무 커요. 10 MB보다 작은 사진을 골라 주세요.",
    unsupported_photo: "읽을 수 없는 형식이에요. JPEG, PNG, WebP, HEIC 사진을 골라 주세요.",
    upload_missing: "사진이 끝까지 올라오지 않았어요. 사진을 다시 골라 주세요.",
    upload_expired: "올리는 데 너무 오래 걸렸어요. 다시 시도해 주세요.",
    upload_refused: "사진을 저장하지 못했어요. 다시 시도해 주세요.",
    backlog_full: "지금은 기다리는 사진이 너무 많아요. 잠시 뒤에 다시 시도해 주세요.",
    unavailable: "서비스 일부가 응답하지 않아요. 잠시 뒤에 다시 시도해 주세요.",
    unreachable: "서비스에 연결할 수 없어요. 인터넷 연결을 확인하고 다시 시도해 주세요.",
    not_found: "이 사진의 결과가 남아 있지 않아요. 사진을 다시 골라 주세요.",
    method_not_allowed: "지금은 할 수 없어요.",
    internal: "일시적인 오류가 생겼어요. 잠시 뒤에 다시 시도해 주세요.",
  },

  en: {
    promise: "Snap it.\nWe say how to bin it.",
    lead: "Take one photo of what you want to throw away. We show which bin, and how, step by step.",
    capture: "Take a photo",
    choose: "Choose photos",
    drop: "You may also drop or paste photos here, several at once.",
    question: "Your question (optional, write it before the photo)",
    question_example: "For example: does the cap go separately?",
    privacy: "Location and other data inside the photo are removed before it is analysed.",
    photos: "Your photos",
    how_take: "Photograph one thing, clearly.",
    how_wait: "Wait a few seconds. You see how far it is.",
    how_follow: "Read the bin and the steps.",
    older: "Show older photos",
    docs: "API documentation for developers",
    switch_language: "한국어",

    preparing: "Preparing your photo.",
    in_line: "Uploading the photos before this one.",
    uploading: "Uploading your photo.",
    uploaded: "Your photo is uploaded.",
    reconnecting: "Connecting again. The work goes on meanwhile.",
    waiting_for_service: "Waiting for the service to answer.",
    waiting_for_network: "It will be uploaded as soon as you are online.",
    offline: "You are offline. We go on as soon as the connection is back.",
    cancelling: "Cancelling.",

    photo: "Photo",
    photo_of: "Photo of {name}",
    progress_of: "Progress",
    and_more: "{name} and {count} more",
    no_result: "No result",
    refused: "This file cannot be used",
    cancelled_title: "Cancelled photo",
    bin: "Where it goes",
    sure: "Sure",
    probable: "Probably",
    unsure: "Not sure",
    perhaps: "{names}?",
    if_so: "If so, this is how",
    nothing_known: "Nothing I know",
    nothing_more: "I could not tell what this is. Photograph one thing in good light, so that it fills the picture.",
    again: "Take another photo",
    answer: "Your question",
    unanswered: "Your question was not answered. The advice still holds.",
    source: "Source: {source}",
    as_of: " (as of {date})",
    place: "For {place}",
    days: "Put out: {days}",
    contact: "Questions: {contact}",
    embedded: "A small built-in model answered. It can be wrong, so please check.",
    took: "Took {seconds} s · {model}",
    open: "Show more: {name}",
    close: "Show less: {name}",
    retry: "Try again",
    cancel: "Cancel",
    remove: "Delete",
    removed: "{name}: photo deleted.",

    right: "That is right",
    thanks: "Thank you for telling us.",
    not_this: "Not this?",
    other: "Something else",
    pick: "Choose it myself",
    chosen: "You chose: {name}",
    take_back: "Back to the first answer",

    find: "Find it by name",
    find_example: "For example: paper cup",
    found: "{count} found.",
    found_none: "Nothing found. Try a shorter or similar name, or take a photo.",
    close_thing: "Close",

    paper: "Paper",
    carton: "Cartons",
    clear_pet: "Clear PET bottle",
    plastics: "Plastics",
    film: "Bags and film",
    foam: "Foam",
    glass: "Glass bottle",
    metals: "Cans and metal",
    textiles: "Clothes, fabric",
    batteries: "Batteries",
    lamps: "Fluorescent lamps",
    e_waste: "Electronics",
    general: "General waste",
    non_combustible: "Does not burn",
    food: "Food waste",
    bulky: "Bulky waste",
    construction: "Building waste",
    hazardous: "Medicine, paint",

    stage_awaiting_upload: "Upload",
    stage_queued: "Queue",
    stage_fetching: "Load",
    stage_analysing: "Look",
    stage_advising: "Advise",

    not_a_photo: "This is no photo, or the file is damaged. Please choose a JPEG, PNG, WebP or HEIC photo.",
    photo_too_large: "The photo is too large. Please choose one smaller than 10 MB.",
    unsupported_photo: "We cannot read this format. Please choose a JPEG, PNG, WebP or HEIC photo.",
    upload_missing: "The photo did not arrive completely. Please choose it again.",
    upload_expired: "The upload took too long. Please try again.",
    upload_refused: "The storage did not take the photo. Please try again.",
    backlog_full: "Too many photos are waiting just now. Please try again in a moment.",
    unavailable: "A part of the service does not answer. Please try again in a moment.",
    unreachable: "The service cannot be reached. Check your connection and try again.",
    not_found: "This photo is no longer on record. Please choose it again.",
    method_not_allowed: "This cannot be done just now.",
    internal: "Something went wrong on our side. Please try again in a moment.",
  },
};

const KEPT = "growbin-language";
let current = kept() ?? (navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en");

export function language() {
  return current;
}

export function switchLanguage() {
  current = current === "ko" ? "en" : "ko";
  try {
    localStorage.setItem(KEPT, current);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

/** `say("photo_of", {name: "can"})`: the sentence in the chosen language. */
export function say(key, values = {}) {
  return WORDS[current][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** As a person writes a title: models name things in lower case. Korean has none. */
export function capital(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** What went wrong and what to do: our words where we have them, else the service's `detail`. */
export function explain(error) {
  return WORDS[current][error.code] ?? error.detail ?? WORDS[current].internal;
}

/** Fill every element below `root` that names its words. */
export function fill(root) {
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of root.querySelectorAll("[data-say-placeholder]")) {
    element.placeholder = say(element.dataset.sayPlaceholder);
  }
}

function kept() {
  try {
    const choice = localStorage.getItem(KEPT);
    return choice in WORDS ? choice : null;
  } catch {
    return null;
  }
}
