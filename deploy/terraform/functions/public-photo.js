// What everyone may see: the clean copy of one job, and nothing else. It is a JPEG; what an earlier version
// promised under another name lives 7 days more.
//
// CloudFront chooses the behaviour by the normalised path, but sends the path to S3 as it came, and S3
// decodes it: /incoming%2FNAME would miss the behaviour of incoming/ and still find the raw photo. So
// this list of allowed names, without any percent sign or second slash, is what keeps raw photos private.
function handler(event) {
  const request = event.request;
  if (/^\/[0-9a-f-]{36}\.(jpg|png|webp)$/.test(request.uri)) {
    return request;
  }
  return { statusCode: 404, statusDescription: 'Not Found' };
}
