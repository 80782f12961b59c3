"""What the references tell a person: about as much as growbin does."""

from __future__ import annotations

MESSAGES = {
    "queued": "사진이 줄을 섰어요",
    "fetching": "사진을 가져오고 있어요",
    "analysing": "무엇인지 보고 있어요",
    "advising": "버리는 방법을 찾고 있어요",
    "done": "다 되었어요",
}
NUMBERS = {stage: number for number, stage in enumerate(MESSAGES, 1)}
ADVICE = {
    "bin": "투명 페트병 전용 수거함",
    "steps": ["내용물을 비웁니다", "물로 헹굽니다", "라벨을 뗍니다", "눌러서 뚜껑을 닫습니다"],
    "cautions": [],
    "rule": {
        "id": "clear-pet",
        "title": "투명 페트병은 내용물을 비우고 라벨을 떼어 다른 플라스틱과 따로 내놓습니다",
        "source": "재활용가능자원의 분리수거 등에 관한 지침 (환경부훈령), 별표 1: 품목별 분리배출 요령",
        "as_of": "2025-01-01",
    },
}
